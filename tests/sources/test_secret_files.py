"""What may hold secrets is left out of folders, and what only looks like it is read."""

import pytest

from lmi_cli.sources import ReadOptions, is_by_rule, open_corpus
from lmi_cli.sources.blocks import Skipped
from lmi_cli.sources.secret_files import by_content, by_name

from .documents import read_all
from .folders import fill, walk_pairs

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----\n"
PUBLIC = "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----\n"
ACCOUNT = '{\n  "type": "service_account",\n  "private_key_id": "1",\n  "private_key": "x"\n}\n'
AWS = "[default]\naws_access_key_id = A\naws_secret_access_key = " + "aB/+" * 10 + "\n"


@pytest.mark.parametrize(
    "name",
    [
        ".env", ".env.local", ".ENV.production", "prod.env", ".envrc", "id_rsa", "id_ed25519",
        ".netrc", "_netrc", ".npmrc", ".pypirc", ".git-credentials", ".pgpass", ".htpasswd",
        "credentials", "credentials.json", "secrets.yml", "Passwords.kdbx", "key.p12", "a.pfx",
        "a.jks", "putty.ppk", "terraform.tfstate", "prod.tfvars", "kubeconfig", "master.key",
        "client_secret_12-ab.json", "application_default_credentials.json", "x.auto.tfvars.json",
    ],
)  # fmt: skip
def test_names_that_tell(name):
    assert by_name(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        "environment.py", "env.py", "env", "dotenv.md", ".env.example", ".env.sample",
        "example.env", ".env.template", ".env.dist", "terraform.tfvars.example", "id_rsa.pub",
        "known_hosts", "authorized_keys", "credentials.py", "credentials.md", "secrets.py",
        "secret_files.py", "netrc.py", "keystore.java", "deck.key", "cert.pem", "my.kdbx.md",
        "secrets.example.yml", "client_secret.py", "htpasswd.c",
    ],
)  # fmt: skip
def test_names_that_are_harmless(name):
    assert by_name(name) is None


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("server.pem", KEY, "private key"),
        ("bundle.pem", CERTIFICATE + KEY, "private key"),
        ("deploy", "Host key:\n" + KEY, "private key"),
        ("notes.txt", "\ufeff\n" + KEY, "private key"),
        ("key.asc", KEY.replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"), "private key"),
        ("x", "PuTTY-User-Key-File-3: ssh-ed25519\n", "private key"),
        ("keys.txt", "# created: today\nAGE-SECRET-KEY-1ABC\n", "private key"),
        ("project-1.json", ACCOUNT, "private key"),
        ("aws.ini", AWS, "passwords or tokens"),
        ("chain.pem", CERTIFICATE + CERTIFICATE, None),
        ("public.pem", PUBLIC, None),
        ("id_rsa.pub", "ssh-rsa AAAA me@here\n", None),
        ("howto.md", "It looks so:\n\n" + KEY, None),
        ("test_tls.py", f'KEY = """\n{KEY}"""\n', None),
        ("aws.md", "Write this:\n\n" + AWS, None),
        ("schema.json", '{"type": "service_account", "private": true}', None),
        ("aws.ini", AWS.replace("aB/+", ""), None),
        ("METADATA", AWS.replace("aB/+" * 10, "YOUR_SECRET"), None),
    ],
)
def test_contents_that_tell_and_that_do_not(name, text, kind):
    assert by_content(text.encode(), name) == kind


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_private_key_in_another_encoding(encoding):
    assert by_content(KEY.encode(encoding), "key.txt") == "private key"


def test_they_are_left_out_of_a_folder_unless_asked_for(tmp_path):
    harmless = {
        ".env.example": "TOKEN=\n", "environment.py": "x = 1\n", "id_rsa.pub": "ssh-rsa A\n",
        "chain.pem": CERTIFICATE,
    }  # fmt: skip
    secret = {".env": "TOKEN=1\n", "id_rsa": KEY, "tls/server.pem": CERTIFICATE + KEY}
    fill(tmp_path, {**harmless, **secret, ".other": "x\n"})
    kept = read_all(tmp_path)
    assert {path.removeprefix(f"{tmp_path}/") for path in kept.skipped} == {*secret, ".other"}
    assert "TOKEN=\n" in kept.text and "TOKEN=1" not in kept.text and "RSA" not in kept.text
    for path, reason in kept.skipped.items():
        assert is_by_rule(Skipped(path, reason))
    reasons = dict(walk_pairs(tmp_path))
    assert reasons[".env"] == "may hold secrets (environment file)"
    assert reasons[".other"] == "hidden"

    asked = open_corpus([str(tmp_path)], ReadOptions(include_secrets=True))
    text = "".join(block.text for block in asked.blocks)
    assert "TOKEN=1" in text and text.count("RSA PRIVATE KEY") == 4
    assert [item.reason for item in asked.skipped] == ["hidden"]


def test_one_that_is_named_is_read(tmp_path):
    fill(tmp_path, {"id_rsa": KEY, "ignored/.env": "TOKEN=1\n"})
    corpus = open_corpus([str(tmp_path / "id_rsa"), str(tmp_path / "ignored" / ".env")])
    text = "".join(block.text for block in corpus.blocks)
    assert KEY in text and "TOKEN=1" in text and not corpus.skipped


def test_other_rules_come_before(tmp_path):
    fill(tmp_path, {".env": "TOKEN=1\n", "a.env": "x", ".gitignore": ".env\n", "b.txt": "x"})
    found = dict(walk_pairs(tmp_path, include_secrets=True, exclude=("a.env",)))
    assert found[".env"] == "ignored by .gitignore"
    assert found["a.env"] == "excluded" and found["b.txt"] is None
