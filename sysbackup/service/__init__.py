"""The long-running service: when runs start, who hears of them, and how it is told what to do."""
