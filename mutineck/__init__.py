"""MutiNeck-KD: several detectors teach one small one."""

import sys

__version__ = "0.1.0"

# jsonschema, which comes with nbformat, would build a grammar of international addresses wherever a notebook is read or
# run: two seconds of each process. Nothing here holds such addresses, and jsonschema goes without where it is missing.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
