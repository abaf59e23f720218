"""Write a source archive again so that the same files give the same bytes: `make dist` runs it.

A tar file holds who owned a file and when it was written, a gzip file when it was packed. Names in
order, one time for all (SOURCE_DATE_EPOCH), no owner."""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def plain(member, when):
    "`member` without what differs from build to build."
    member.mtime = when
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    member.pax_headers = {}
    return member


def write_again(path, when):
    "Replace the archive at `path` by one whose bytes depend on names, contents and `when` alone."
    held = io.BytesIO()
    with (
        tarfile.open(path) as old,
        gzip.GzipFile(filename="", mode="wb", fileobj=held, mtime=when) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            new.addfile(plain(member, when), old.extractfile(member) if member.isfile() else None)
    Path(path).write_bytes(held.getvalue())


if __name__ == "__main__":
    for archive in sys.argv[1:]:
        write_again(archive, int(os.environ["SOURCE_DATE_EPOCH"]))
