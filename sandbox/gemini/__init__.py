"""A stand-in for the Gemini API: Google's REST interface on one machine, without a key.

It answers `generateContent` and `streamGenerateContent` (JSON array or `?alt=sse`); request checks, enum encoding and
error bodies follow Google's, so the real SDKs talk to it unchanged. sandbox/README.md says how to steer it. One
process holds all the state.
"""
