"""Dashboards and alerts as code, and in `generated/` what the code makes. `python -m dashboards` writes it anew."""
