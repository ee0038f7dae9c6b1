"""Keys of a store are put in clusters once, before the first question that searches them."""

from collections.abc import Generator

from lmi_cli.models.load import Loaded
from lmi_cli.tasks.asking import AnswerOptions
from lmi_cli.tasks.events import Note, Progress
from lmi_cli.tasks.reading import Reading, cluster_keys


def prepare_search(
    model: Loaded, reading: Reading, options: AnswerOptions
) -> Generator[Progress | Note, None, None]:
    """Do before the first question what its search would do otherwise, without a word.

    Raises:
        UsageError: Parameters of the search contradict each other.
    """
    store, layers = reading.stores.get("store"), model.known.facts.layers
    wanted = options.answer_from
    if wanted == "auto" and not reading.plan.index and not reading.plan.embeddings:
        wanted = "memory"
    if store is None or wanted != "memory":
        return
    searching = options.method.searching(reading.plan.method, len(layers))
    if searching is not None and searching.searches_clusters(layers):
        yield from cluster_keys(store)
