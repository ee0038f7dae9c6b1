"""The command line: arguments to requests, reports to text or JSON, errors to exit codes.

Knows no numerics. Everything heavy is imported inside the commands, so that help is instant.
"""
