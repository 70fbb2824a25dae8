"""The work behind each verb: a stage reads named files, writes one, returns its path.

Stages never import each other.
"""
