"""The command line: arguments to requests, reports to text or JSON, errors to exit codes.

Contains no numerics. Heavy imports are made inside the commands, so that help appears at once.
"""
