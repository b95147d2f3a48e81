"""The web page and its doors for programs: built from a ``Pipeline``, whose answers it shows and nothing else.

::

    serve → page → segment, everything, compare and label tabs → answer, viewer, takeaway → Pipeline, Result, label/
                 → api: the same as named endpoints and MCP tools

Whatever people type is shown as text, never as HTML. Nothing is read but what was uploaded (``limits``).
"""
