"""Requests to vector stores, kept inside their tenant: parsed whole, rebuilt with the tenant's scope, never spliced.

`calls` is what the session sees. `scope` maps tenants to databases, collections, partitions, namespaces and keys.
`expr` is Milvus's filter grammar. `milvus` and `pinecone` are the protocols; whatever they do not know is refused.
"""
