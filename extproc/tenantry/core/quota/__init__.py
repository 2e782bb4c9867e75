"""What a tenant may spend: compute units a minute and a calendar month, reserved before a request and settled after it.

`account` is the arithmetic of one tenant's account, which every store runs atomically (SQLite this code, Redis the same
in Lua); `claim` says what a request is reserved at; `settling` waits for what it came to; `answer` tells the client.
"""
