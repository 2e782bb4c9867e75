"""Documents through langchain-milvus as it is: from documents to search, filter, upsert and delete.

Job: {uri, token, collection, tenant_marker, db_name?, skip?}; the marker begins every text.
"""

import warnings

warnings.filterwarnings("ignore")

from importlib.metadata import version

from _steps import Steps, vector
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_milvus import Milvus


class Hashed(Embeddings):
    """Deterministic embeddings without a model."""

    def embed_documents(self, texts):
        return [vector(text) for text in texts]

    def embed_query(self, text):
        return vector(text)


def main():
    steps = Steps({"name": "langchain-milvus", "version": version("langchain-milvus")})
    try:
        story(steps)
    finally:
        steps.finish()


def story(steps):
    job = steps.job
    run = steps.run
    connection = {"uri": job["uri"], "token": job["token"], "db_name": job.get("db_name", "")}
    words = ("ant", "bee", "cat", "dog")
    documents = [
        Document(page_content=f"{steps.marker}: {word}", metadata={"legs": 4 + index % 2 * 2, "source": word})
        for index, word in enumerate(words)
    ]

    def open_store():
        # No `timeout`: in 0.4.0 a store that has one fails at its first insert.
        return Milvus(
            Hashed(),
            collection_name=job["collection"],
            connection_args=connection,
            consistency_level="Strong",
            index_params={"index_type": "FLAT", "metric_type": "COSINE"},
            auto_id=False,
        )

    store = run("store.open", open_store)
    if store is None:
        return
    keys = [f"{steps.marker}-{word}" for word in words]
    question = f"{steps.marker}: cat"
    run("store.add_documents", lambda: store.add_documents(documents, ids=keys))
    run("store.search", lambda: texts(store.similarity_search(question, k=2)))
    run(
        "store.search_score", lambda: [one.page_content for one, _ in store.similarity_search_with_score(question, k=2)]
    )
    run("store.search_filter", lambda: texts(store.similarity_search(question, k=4, expr="legs == 4")))
    run("store.search_mmr", lambda: texts(store.max_marginal_relevance_search(question, k=2, fetch_k=4)))
    run("store.by_metadata", lambda: texts(store.search_by_metadata('source == "bee"', limit=5)))
    run("store.get_pks", lambda: store.get_pks("legs == 6"))
    run("store.retriever", lambda: texts(store.as_retriever(search_kwargs={"k": 1}).invoke(question)))
    changed = Document(page_content=f"{steps.marker}: cat (second)", metadata={"legs": 4, "source": "cat"})
    run("store.upsert", lambda: store.upsert(ids=[keys[2]], documents=[changed]))
    run("store.search_after_upsert", lambda: texts(store.similarity_search(question, k=4, expr='source == "cat"')))
    run("store.delete_ids", lambda: store.delete(ids=[keys[0]]))
    run("store.delete_expr", lambda: store.delete(expr="legs == 6"))
    run("store.left", lambda: texts(store.similarity_search(question, k=9)))
    # A second process of the same application finds the collection there.
    again = run("store.open_again", open_store)
    if again is not None:
        run("store.search_again", lambda: texts(again.similarity_search(question, k=9)))
    run("store.drop", store.drop)


def texts(documents):
    return [document.page_content for document in documents]


if __name__ == "__main__":
    main()
