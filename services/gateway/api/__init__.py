"""The public HTTP surface (DESIGN.md section 3): one module per subject, each a thin translation to and from HTTP.

A route decodes names from the raw path, checks headers, calls one part of the gateway and shapes the answer. It decides
nothing itself; errors leave as problem documents (`problems`).
"""
