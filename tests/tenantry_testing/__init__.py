"""What the fast tests share: `documents` builds rules and secrets, `exchanges` builds and plays conversations."""
