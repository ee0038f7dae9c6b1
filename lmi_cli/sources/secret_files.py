"""Files that are there to keep a secret, by their names and, where that is cheap, their contents.

A folder is often read whole, and what was read may be printed, saved or quoted. Such files are left
out unless the user names them or asks for them. Imports the standard library.

The lists name what programs themselves write or read, after their manuals: OpenSSH (ssh-keygen(1)),
curl (netrc), git (git-credential-store(1)), npm (npmrc), PyPI (the .pypirc specification), AWS
(configuration and credential file settings), Docker (dockercfg), Kubernetes (kubeconfig), Google
Cloud (application default credentials, service account keys, OAuth client secrets), PostgreSQL
(pgpass), MySQL (option files, mysql_config_editor), Apache (htpasswd(1)), GnuPG (secring), PuTTY,
KeePass, Password Safe, 1Password, PKCS #8 and #12 (RFC 7292, RFC 7468), Java key stores (keytool),
Terraform (state and variable files), HashiCorp Vault, Rails (master.key, secrets.yml), Streamlit
(secrets.toml), direnv (.envrc), s3cmd, gsutil (.boto) and age.
"""

import re

_NAMES = {
    "private key": (
        "id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "master.key",
        "secring.gpg",
    ),
    "passwords or tokens": (
        ".netrc", "_netrc", ".npmrc", ".pypirc", ".git-credentials", ".pgpass", "pgpass.conf",
        ".my.cnf", ".mylogin.cnf", ".htpasswd", "htpasswd", ".dockercfg", ".s3cfg", ".boto",
        ".vault-token", "kubeconfig", "credentials", "credentials.json", "credentials.toml",
        "application_default_credentials.json", "secrets.yml", "secrets.yaml", "secrets.json",
        "secrets.toml",
    ),
    "environment file": (".env", ".envrc"),
}  # fmt: skip
_ENDINGS = {
    "private key": (".ppk", ".p12", ".pfx", ".pkcs12", ".jks", ".keystore"),
    "password store": (".kdbx", ".kdb", ".psafe3", ".agilekeychain", ".opvault"),
    "passwords or tokens": (
        ".kubeconfig", ".tfstate", ".tfstate.backup", ".tfvars", ".tfvars.json",
    ),
    "environment file": (".env",),
}  # fmt: skip
_ENVIRONMENT = re.compile(r"\.env[._-].+")
_OAUTH_CLIENT = re.compile(r"client_secret_?.*\.json")
_TEMPLATE = re.compile(r"(?:^|[._-])(?:example|sample|template|tmpl|dist|defaults?)(?:[._-]|$)")
"""A word in the name of a file that shows how another one is written, without its secrets."""

_PRIVATE_KEY = re.compile(
    rb"^[ \t\xef\xbb\xbf\xff\xfe]*-----BEGIN [A-Z0-9 ]*PRIVATE KEY", re.MULTILINE
)
_KEY_ENDINGS = (".pem", ".key", ".crt", ".cer", ".cert", ".p8", ".pk8", ".ovpn", ".asc", ".gpg")
"""Of files in which a key may stand behind certificates or settings."""
_BLANK = b" \t\r\n\xef\xbb\xbf\xff\xfe"
"""Also byte order marks."""
_SERVICE_ACCOUNT = re.compile(rb'"type"\s*:\s*"service_account"')
_AWS_KEY = re.compile(
    rb"^[ \t]*aws_secret_access_key[ \t]*=[ \t]*[\"']?[A-Za-z0-9/+]{40}(?![\w/+=])",
    re.MULTILINE | re.IGNORECASE,
)
"""With a key of the length that they have, not with what stands for one in instructions."""
_AGE_KEY = re.compile(rb"^AGE-SECRET-KEY-1", re.MULTILINE)


def by_name(name: str) -> str | None:
    """What a file of this name holds; None if the name does not tell, or is that of a template."""
    plain = name.lower()
    for kind, names in _NAMES.items():
        if plain in names:
            return kind
    if _TEMPLATE.search(plain):
        return None
    if _ENVIRONMENT.fullmatch(plain):
        return "environment file"
    if _OAUTH_CLIENT.fullmatch(plain):
        return "passwords or tokens"
    for kind, endings in _ENDINGS.items():
        if plain.endswith(endings):
            return kind
    return None


def is_environment_template(name: str) -> bool:
    """Whether a name is that of a template such as ``.env.example``."""
    plain = name.lower()
    environment = plain.startswith(".env") and _ENVIRONMENT.fullmatch(plain) is not None
    return environment and _TEMPLATE.search(plain) is not None


def by_content(head: bytes, name: str) -> str | None:
    """What a file holds, by its first bytes; None if they do not tell.

    A text that shows such a thing, as a manual or a program does, is none: it must begin with it,
    or the file's name must be that of files which contain such things.
    """
    head = head.replace(b"\0", b"")  # of UTF-16
    plain = name.lower()
    bare = "." not in plain.strip(".")
    key = _PRIVATE_KEY.search(head)
    if key is not None and (
        bare or plain.endswith(_KEY_ENDINGS) or not head[: key.start()].strip(_BLANK)
    ):
        return "private key"
    if head.startswith(b"PuTTY-User-Key-File-"):
        return "private key"
    if (bare or plain.endswith((".txt", ".key", ".age"))) and _AGE_KEY.search(head):
        return "private key"
    if plain.endswith(".json") and b'"private_key"' in head and _SERVICE_ACCOUNT.search(head):
        return "private key"
    if (bare or plain.endswith((".ini", ".cfg", ".conf", ".toml"))) and _AWS_KEY.search(head):
        return "passwords or tokens"
    return None
