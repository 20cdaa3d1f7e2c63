"""What lies in the bucket, byte by byte: keys, gzip members, packs, manifests. Pure: bytes in and out."""
