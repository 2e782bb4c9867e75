"""Nodes through llama-index's Milvus store as it is: add, query, filters, get, delete.

Job: {uri, token, collection, tenant_marker, skip?}; the marker begins every text.
"""

import warnings

warnings.filterwarnings("ignore")

from importlib.metadata import version

from _steps import DIMENSION, Steps, vector
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.milvus import MilvusVectorStore


class Hashed(BaseEmbedding):
    """Deterministic embeddings without a model."""

    def _get_text_embedding(self, text):
        return vector(text)

    def _get_query_embedding(self, query):
        return vector(query)

    async def _aget_query_embedding(self, query):
        return vector(query)


def main():
    name = "llama-index-vector-stores-milvus"
    steps = Steps({"name": name, "version": version(name)})
    try:
        story(steps)
    finally:
        steps.finish()


def story(steps):
    job = steps.job
    run = steps.run

    def open_store():
        return MilvusVectorStore(
            uri=job["uri"],
            token=job["token"],
            collection_name=job["collection"],
            dim=DIMENSION,
            overwrite=False,
            similarity_metric="COSINE",
            consistency_level="Strong",
            use_async_client=False,
            index_config={"index_type": "FLAT"},
        )

    store = run("store.open", open_store)
    if store is None:
        return
    words = ("ant", "bee", "cat", "dog")
    nodes = [node(steps.marker, word, 4 + index % 2 * 2) for index, word in enumerate(words)]
    question = VectorStoreQuery(query_embedding=vector(f"{steps.marker}: cat"), similarity_top_k=2)
    four = MetadataFilters(filters=[MetadataFilter(key="legs", value=4)])
    run("store.add", lambda: store.add(nodes))
    run("store.query", lambda: found(store.query(question)))
    run(
        "store.query_filter",
        lambda: found(
            store.query(VectorStoreQuery(query_embedding=question.query_embedding, similarity_top_k=4, filters=four))
        ),
    )
    run(
        "store.query_expr",
        lambda: found(store.query(question, string_expr='word in ["ant", "dog"]')),
    )
    run("store.get_nodes", lambda: [one.get_content() for one in store.get_nodes(node_ids=[nodes[0].node_id])])
    run("store.delete_document", lambda: store.delete(f"{steps.marker}-doc-bee"))
    run("store.delete_nodes", lambda: store.delete_nodes(node_ids=[nodes[0].node_id]))
    run("store.left", lambda: found(store.query(VectorStoreQuery(question.query_embedding, similarity_top_k=9))))
    run("index.search", lambda: by_index(store, steps.marker))
    again = run("store.open_again", open_store)
    if again is not None:
        run("store.query_again", lambda: found(again.query(question)))
    run("store.clear", store.clear)


def node(marker, word, legs):
    source = RelatedNodeInfo(node_id=f"{marker}-doc-{word}")
    text = f"{marker}: {word}"
    return TextNode(
        id_=f"{marker}-{word}",
        text=text,
        metadata={"legs": legs, "word": word},
        embedding=vector(text),
        relationships={NodeRelationship.SOURCE: source},
    )


def by_index(store, marker):
    """Go the way of most applications: an index over the store, documents in, a retriever out."""
    context = StorageContext.from_defaults(vector_store=store)
    documents = [Document(text=f"{marker}: elk", doc_id=f"{marker}-doc-elk")]
    index = VectorStoreIndex.from_documents(
        documents, storage_context=context, embed_model=Hashed(), transformations=[]
    )
    return [one.get_content() for one in index.as_retriever(similarity_top_k=1).retrieve(f"{marker}: elk")]


def found(result):
    return [[key, one.get_content()] for key, one in zip(result.ids, result.nodes, strict=True)]


if __name__ == "__main__":
    main()
