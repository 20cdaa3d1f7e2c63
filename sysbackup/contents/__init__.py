"""Store a content once, find it, read it back checked: the only room that joins the catalog and the store."""
