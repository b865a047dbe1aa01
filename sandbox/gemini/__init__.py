"""A stand-in for the Gemini API: the same REST as Google's, on one machine, without a key.

Start it with `python -m sandbox.gemini --port 8081 [--pace 0.03] [--delay 0]` and point a client at
`http://127.0.0.1:8081` with any API key. It answers `generateContent`, `streamGenerateContent`
(JSON array or `?alt=sse`), `countTokens` and the model list; request checks, enum encoding and error
bodies follow Google's, so the real SDKs talk to it unchanged. A missing key is 403, a key that starts
with `invalid` is 400 `API_KEY_INVALID`, a model that Google has shut down is 404.

Its replies begin with `[sandbox]`, say how many turns they saw and quote earlier ones. The same
request always gets the same text. A stream comes word by word, `--pace` seconds apart.

**Steering one request**: put a directive into the last user prompt, alone or among other text:

    [[sandbox: delay=3]]                wait 3 seconds, then answer
    [[sandbox: status=503]]             fail with Google's error body
    [[sandbox: status=429 retry_after=2 times=2]]
                                        fail the first 2 times this very prompt comes, then answer
    [[sandbox: block]]                  promptFeedback.blockReason SAFETY and no candidate (block=OTHER, …)
    [[sandbox: finish=SAFETY]]          a candidate without text (also MAX_TOKENS, RECITATION, …)
    [[sandbox: empty]]                  STOP without parts
    [[sandbox: hang]]                   accept and do not answer (10 minutes, or until released)
    [[sandbox: hang_after=5]]           a stream stands still after 5 pieces
    [[sandbox: trickle=0.1]]            headers, then a byte every 0.1 s for 10 minutes
    [[sandbox: drop]]                   close the connection without an answer
    [[sandbox: drop_after=5]]           close it after 5 pieces of the stream (or in mid-body)
    [[sandbox: garbage]]                200 with a page of HTML
    [[sandbox: unknown_fields]]         fields that no client knows yet
    [[sandbox: words=500]]              a reply of 500 words
    [[sandbox: pace=0.2]]               seconds between the words of a stream
    [[sandbox: say="exact text"]]       answer exactly this (`echo=` is the same; JSON escapes work)

**Steering every request**: `PUT /sandbox/behaviour` takes the same fields as JSON, for example
`{"status": 503, "times": null}`; there `times` counts requests. `DELETE /sandbox/behaviour` ends it and
lets hanging requests go on to a normal answer. A prompt's own directive wins over it, field by field.

**Watching**: `GET /sandbox/requests` lists the last 1000 requests (never a key), `GET /sandbox/stats`
gives `{calls, in_flight, max_in_flight}` and can wait: `?in_flight_at_least=5`, `?in_flight_at_most=0`,
`?calls_at_least=3`, for at most `timeout` seconds (10). `DELETE /sandbox/requests` clears both.

Tests start it with `sandbox.gemini.process.running_gemini_stand_in`. One process holds all the state,
so it runs as a single gunicorn worker with many threads.
"""
