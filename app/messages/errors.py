"""What can go wrong with a message."""

from http import HTTPStatus

from app.core.errors import AppError


class MessageNotEditable(AppError):
    """It is a reply, it is superseded, or a reply of its room is under way."""

    status, code = HTTPStatus.CONFLICT, "message_not_editable"
    detail = "Only a prompt of the current conversation can be edited, and only while no reply is under way."
