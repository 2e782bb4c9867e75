"""What the stand-in Pinecone does, on plain data in REST's spelling: one function for REST and gRPC."""

from typing import Any

from tenantry_standin.pinecone_index import PAGE, Index, Row, embedded, page, plain, wanted

Body = dict[str, Any]


class Operations:
    """Pinecone's operations on plain data in REST's spelling, whichever transport a request came by."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def call(self, operation: str, body: Body, transport: str, api_key: str) -> Body:
        """Run one operation; raise IndexError400 for what Pinecone refuses."""
        answer, ids = getattr(self, operation)(body)
        self.index.note(transport, operation, body.get("namespace", ""), ids, api_key)
        return answer  # type: ignore[no-any-return]

    def upsert(self, body: Body) -> tuple[Body, list[str]]:
        """Write vectors."""
        rows = [_row(one) for one in body.get("vectors", [])]
        self.index.upsert(body.get("namespace", ""), rows)
        return {"upsertedCount": len(rows)}, [row.id for row in rows]

    def query(self, body: Body) -> tuple[Body, list[str]]:
        """Search by vector or by id."""
        like = _row({**body, "values": body.get("vector", []), "sparseValues": body.get("sparseVector")})
        found = self.index.query(
            body.get("namespace", ""), int(body.get("topK", 0)), wanted(body.get("filter")), like=like
        )
        matches = [
            {
                **_vector(row, values=body.get("includeValues", False), metadata=body.get("includeMetadata", False)),
                "score": score,
            }
            for score, row in found
        ]
        return {"matches": matches, **_about(body)}, [row.id for _, row in found]

    def fetch(self, body: Body) -> tuple[Body, list[str]]:
        """Read rows by id."""
        rows = self.index.rows(body.get("namespace", ""))
        ids = [one for one in body.get("ids", []) if one in rows]
        return {"vectors": {one: _vector(rows[one]) for one in ids}, **_about(body)}, ids

    def fetch_by_metadata(self, body: Body) -> tuple[Body, list[str]]:
        """Read a page of the rows that a filter matches."""
        namespace = body.get("namespace", "")
        ids, token = _page(self.index.matching(namespace, wanted(body.get("filter"))), body)
        rows = self.index.rows(namespace)
        answer = {"vectors": {one: _vector(rows[one]) for one in ids}, **_about(body)}
        return {**answer, "pagination": {"next": token}} if token else answer, ids

    def list_ids(self, body: Body) -> tuple[Body, list[str]]:
        """List a page of ids."""
        prefix = body.get("prefix", "")
        ids, token = _page([one for one in self.index.rows(body.get("namespace", "")) if one.startswith(prefix)], body)
        answer = {"vectors": [{"id": one} for one in ids], **_about(body)}
        return {**answer, "pagination": {"next": token}} if token else answer, ids

    def update(self, body: Body) -> tuple[Body, list[str]]:
        """Change one row, or the metadata of all that a filter matches."""
        namespace = body.get("namespace", "")
        by_filter = "filter" in body
        ids = self.index.matching(namespace, wanted(body["filter"])) if by_filter else [body.get("id", "")]
        if not body.get("dryRun"):
            changes = _row({**body, "metadata": body.get("setMetadata")})
            ids = self.index.update(namespace, ids, changes, values="values" in body, sparse="sparseValues" in body)
        return {"matchedRecords": len(ids)} if by_filter else {}, ids

    def delete(self, body: Body) -> tuple[Body, list[str]]:
        """Delete rows by id, by filter, or all."""
        namespace = body.get("namespace", "")
        ids = body.get("ids", [])
        if body.get("deleteAll") or body.get("filter"):
            ids = self.index.matching(namespace, wanted(body.get("filter")))
        self.index.delete(namespace, ids)
        return {}, list(ids)

    def stats(self, body: Body) -> tuple[Body, list[str]]:
        """Count rows in all namespaces."""
        keep = wanted(body.get("filter"))
        counts = {
            name or "__default__": sum(keep(row.metadata) for row in rows.values())
            for name, rows in self.index.namespaces.items()
        }
        answer = {
            "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
            "indexFullness": 0.0,
            "totalVectorCount": sum(counts.values()),
            "metric": "cosine",
        }
        dense = next((len(row.values) for rows in self.index.namespaces.values() for row in rows.values()), 0)
        return {**answer, "dimension": dense} if dense else answer, []

    def records_upsert(self, body: Body) -> tuple[Body, list[str]]:
        """Write records, embedded by the hash of their texts."""
        rows = []
        for record in body["records"]:
            fields = {name: value for name, value in record.items() if name not in ("_id", "id")}
            texts = [value for name, value in sorted(fields.items()) if name in ("text", "chunk", "chunk_text")]
            rows.append(Row(id=record.get("_id", record.get("id", "")), values=embedded(texts), metadata=fields))
        self.index.upsert(body["namespace"], rows)
        return {}, [row.id for row in rows]

    def records_search(self, body: Body) -> tuple[Body, list[str]]:
        """Search records by text, vector or id."""
        query = body.get("query", {})
        texts = [value for _, value in sorted(query.get("inputs", {}).items())]
        values = embedded(texts) if texts else tuple(query.get("vector", {}).get("values", ()))
        like = Row(id=query.get("id", ""), values=values)
        found = self.index.query(body["namespace"], int(query.get("top_k", 0)), wanted(query.get("filter")), like=like)
        fields = body.get("fields")
        hits = [
            {
                "_id": row.id,
                "_score": score,
                "fields": {name: value for name, value in row.metadata.items() if fields is None or name in fields},
            }
            for score, row in found
        ]
        return {"result": {"hits": hits}, "usage": {"read_units": 1}}, [row.id for _, row in found]


def _row(body: Body) -> Row:
    sparse = body.get("sparseValues") or {}
    return Row(
        id=body.get("id", ""),
        values=tuple(body.get("values") or ()),
        sparse=dict(zip(sparse.get("indices", ()), sparse.get("values", ()), strict=True)),
        metadata=body.get("metadata") or {},
    )


def _vector(row: Row, *, values: bool = True, metadata: bool = True) -> Body:
    sparse = {"indices": list(row.sparse), "values": list(row.sparse.values())}
    return {
        "id": row.id,
        **({"values": list(row.values)} if values else {}),
        **({"sparseValues": sparse} if values and row.sparse else {}),
        **({"metadata": row.metadata} if metadata and row.metadata else {}),
    }


def _about(body: Body) -> Body:
    return {"namespace": plain(body.get("namespace", "")), "usage": {"readUnits": 1}}


def _page(ids: list[str], body: Body) -> tuple[list[str], str]:
    return page(ids, body.get("paginationToken", ""), int(body.get("limit", PAGE)))
