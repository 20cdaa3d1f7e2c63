"""One backup, stage by stage."""
