"""What users come for: questions, summaries, scores. Sources and a model in, typed reports out.

Tasks put ``sources``, ``text`` and ``engine`` together and yield events; they print nothing.
"""
