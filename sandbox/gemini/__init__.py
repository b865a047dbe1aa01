"""A stand-in for the Gemini API: the same REST as Google's, on one machine, without a key.

It answers `generateContent` and `streamGenerateContent` (JSON array or `?alt=sse`); request checks, enum encoding and
error bodies follow Google's, so the real SDKs talk to it unchanged. How to run and to steer it is in
sandbox/README.md. One process holds all the state.
"""
