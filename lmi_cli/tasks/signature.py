"""What ``cli`` asks before anything heavy is imported. Imports only ``cache.signature``."""

from lmi_cli.cache.signature import is_state_file

__all__ = ["is_state_file"]
