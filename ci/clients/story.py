"""A day with the API, told with the client that was generated from its description. Only this file is hand-written.

ci/clients/check.py checks its types together with the client's.
"""

import os
import random
import time
from typing import TypeVar

import httpx
from follow import follow
from gemini_backend_client import AuthenticatedClient, Client
from gemini_backend_client.api.auth import log_in, send_otp, sign_up, verify_otp
from gemini_backend_client.api.billing import get_subscription, subscribe_to_pro
from gemini_backend_client.api.chatroom import create_chatroom, list_chatrooms
from gemini_backend_client.api.messages import edit_prompt, get_message, list_messages, retry_reply, send_message
from gemini_backend_client.api.search import search_messages
from gemini_backend_client.api.user import (
    create_api_key,
    delete_account,
    delete_api_key,
    get_usage,
    list_security_events,
)
from gemini_backend_client.models import (
    AcceptedOut,
    ApiKeyIn,
    ApiKeyInScopesItem,
    ChatroomIn,
    ChatroomOut,
    CheckoutOut,
    FoundPageOut,
    LoginIn,
    MessageOut,
    MobileIn,
    NewApiKeyOut,
    PromptIn,
    SentCodeOut,
    SignupIn,
    SubscriptionStatusOut,
    TokensOut,
    UsageOut,
    VerifyIn,
)

BASE_URL = os.environ["BASE_URL"]
SECONDS = 30
T = TypeVar("T")


def told(answer: object, kind: type[T]) -> T:
    """Return the answer, which must be of that kind."""
    assert isinstance(answer, kind), answer
    return answer


def get_in() -> AuthenticatedClient:
    """Sign up and log in."""
    anybody = Client(BASE_URL)
    mobile = f"+1415{random.randrange(2_000_000, 10_000_000)}"
    assert sign_up.sync_detailed(client=anybody, body=SignupIn(mobile=mobile, name="Ada")).status_code == 201
    code = told(send_otp.sync(client=anybody, body=MobileIn(mobile=mobile)), SentCodeOut)
    tokens = told(verify_otp.sync(client=anybody, body=VerifyIn(mobile=mobile, otp=str(code.otp))), TokensOut)
    refused = log_in.sync_detailed(client=anybody, body=LoginIn(mobile=mobile, password="no such password"))
    assert refused.status_code == 401
    return AuthenticatedClient(BASE_URL, token=tokens.access_token, timeout=httpx.Timeout(SECONDS))


def chat(client: AuthenticatedClient) -> None:
    """Open a room, wait for a reply, follow one, regenerate it, edit its prompt, use up the day, and search."""
    room = told(create_chatroom.sync(client=client, body=ChatroomIn(title="By the sea")), ChatroomOut).id
    waited = send_message.sync_detailed(
        room, client=client, body=PromptIn(text="What lives in tide pools?"), prefer="wait=15"
    )
    accepted = told(waited.parsed, AcceptedOut)
    assert (waited.status_code, accepted.reply.status) == (200, "completed")

    streamed = told(
        send_message.sync(room, client=client, body=PromptIn(text="And at night?", stream=True)), AcceptedOut
    )
    reply = streamed.reply.id
    address = f"{BASE_URL}/chatroom/{room}/messages/{reply}/stream"
    events = list(follow(address, client.token))
    text = "".join(data["text"] for name, data in events if name == "delta")
    assert events[-1][0] == "completed"
    assert events[-1][1]["message"]["text"] == text

    again = told(retry_reply.sync(room, reply, client=client), MessageOut)
    wait_for(client, again)
    edited = edit_prompt.sync(
        room, streamed.message.id, client=client, body=PromptIn(text="And by day?"), prefer="wait=15"
    )
    told(edited, AcceptedOut)
    assert list_messages.sync_detailed(room, client=client, limit=100).status_code == 200
    assert list_chatrooms.sync_detailed(client=client).headers["ETag"]
    while told(get_usage.sync(client=client), UsageOut).remaining:
        told(send_message.sync(room, client=client, body=PromptIn(text="More?")), AcceptedOut)
    refused = send_message.sync_detailed(room, client=client, body=PromptIn(text="One too many"))
    assert (refused.status_code, refused.headers["RateLimit"].split(";")[1]) == (429, "r=0")
    found = told(search_messages.sync(client=client, q="tide poo"), FoundPageOut)
    assert found.items


def wait_for(client: AuthenticatedClient, reply: MessageOut) -> None:
    deadline = time.monotonic() + SECONDS
    while reply.completed_at is None:
        assert time.monotonic() < deadline, reply
        time.sleep(0.2)
        reply = told(get_message.sync(reply.chatroom_id, reply.id, client=client), MessageOut)


def buy_pro(client: AuthenticatedClient) -> None:
    """Pay on the stand-in's page, and wait for the webhook."""
    page = told(subscribe_to_pro.sync(client=client), CheckoutOut).url
    httpx.post(f"{page}/pay", timeout=SECONDS)
    deadline = time.monotonic() + SECONDS
    while told(get_subscription.sync(client=client), SubscriptionStatusOut).tier != "pro":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert told(get_usage.sync(client=client), UsageOut).limit is None


def use_a_key(client: AuthenticatedClient) -> None:
    """Call the API with a key, within its scope and without a login, until the key is deleted."""
    made = told(create_api_key.sync(client=client, body=ApiKeyIn("CI", [ApiKeyInScopesItem.CHATREAD])), NewApiKeyOut)
    program = AuthenticatedClient(BASE_URL, token=made.key, timeout=httpx.Timeout(SECONDS))
    assert list_chatrooms.sync_detailed(client=program).status_code == 200
    assert create_chatroom.sync_detailed(client=program, body=ChatroomIn()).status_code == 403
    assert delete_api_key.sync_detailed(made.id, client=client).status_code == 204
    assert list_chatrooms.sync_detailed(client=program).status_code == 401


def main() -> None:
    client = get_in()
    chat(client)
    buy_pro(client)
    use_a_key(client)
    assert list_security_events.sync_detailed(client=client).status_code == 200
    assert delete_account.sync_detailed(client=client).status_code == 204
    assert list_chatrooms.sync_detailed(client=client).status_code == 401
    print("The generated client has told its story.")


main()
