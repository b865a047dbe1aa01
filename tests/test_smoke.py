def test_story(user, worker):
    room = user.make_chatroom()
    r = user.post(f"{room}/message", json={"text": "hi"}, headers={"Prefer": "wait=10"})
    assert r.status_code == 200, r.text
    assert r.json["reply"]["status"] == "completed"
