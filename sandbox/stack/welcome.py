"""What `make run` prints when everything is ready: where to look, and a first conversation to paste."""

# Pasted into bash or zsh: no comments (an interactive zsh has none), no unquoted `?` or `!`. Each paste takes
# another number (555 ones are nobody's): neither the quota nor the wait between two codes is in the way.
_CONVERSATION = r"""API=http://127.0.0.1:{port}
JSON='Content-Type: application/json'
MOBILE="+1202555$((RANDOM % 9000 + 1000))"
pick() {{ sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }}
curl -s -w '\n' "$API/auth/signup" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\", \"name\": \"Ada\"}}"
OTP=$(curl -s "$API/auth/send-otp" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\"}}" | pick otp)
TOKEN=$(curl -s "$API/auth/verify-otp" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\", \"otp\": \"$OTP\"}}" | pick access_token)
AUTH="Authorization: Bearer $TOKEN"
ROOM=$(curl -s "$API/chatroom" -H "$AUTH" -H "$JSON" -d '{{"title": "First steps"}}' | pick id)
curl -s -w '\n' "$API/chatroom/$ROOM/message" -H "$AUTH" -H "$JSON" -H 'Prefer: wait=10' -d '{{"text": "Explain DNS"}}'
"""  # noqa: E501 - one command, one line

_TEXT = """
{rule}
 The API is ready.

   Docs      http://127.0.0.1:{port}/docs
   Health    http://127.0.0.1:{port}/readyz
{places}
   Stop      Ctrl-C

 Paste this into another terminal for a first answer:

{conversation}{rule}
"""

_WIDTH = 78


def welcome(*, port: int, chat: str | None, places: dict[str, str]) -> str:
    """The text; `chat` is the page to try it all in, `places` are further lines of what is where."""
    if chat is not None:
        places = {"Chat": f"{chat} (try it in a browser)", **places}
    lines = "\n".join(f"   {name:<9} {where}" for name, where in places.items())
    return _TEXT.format(rule="─" * _WIDTH, port=port, places=lines, conversation=conversation(port))


def conversation(port: int) -> str:
    """From signup to an answered message, as shell commands for bash and zsh."""
    return _CONVERSATION.format(port=port)
