# Mailroom's gateway action: incoming mail for Odoo, many messages in one call, one verdict each.
# Role odoo_mail keeps it like this: a change made in Odoo is overwritten by the next run.
#
# It runs inside Odoo (14 to 19) under safe_eval, which forbids import, with, class, names with two underscores,
# closures and, up to 14, f-strings.  `env`, `b64decode` and `UserError` are given.  The caller's context holds
#   {"mailroom": {"version": 1, "messages": [{"id": ..., "message_id": "<a@b>", "thread": "7", "raw": base64}, ...]}}
# and the answer's "verdicts" say for each: routed, duplicate, bounce, ignored, refused, error or retry; never None,
# which XML-RPC cannot carry.  Messages of one `thread` (not empty) keep their order: once one failed, or was stored by
# another call at the same time, those after it in the call are not tried (retry).  "find": ["<a@b>", ...] in it asks,
# changing nothing, where Odoo has these messages; the answer's "found" has an entry for each place, none for what Odoo
# does not have.  "addresses": true asks, changing nothing either, which addresses Odoo takes mail for: the answer's
# "addresses" has [local part, domain] of each alias, catchall and bounce address, "" standing for every alias domain.
#
# mypy: disable-error-code="name-defined"
# ruff: noqa: F821

# All of one call's locks live in this space of PostgreSQL's advisory locks ("mail" in ASCII), apart from others'.
LOCK_SPACE = 1835100524


def clean(text: str) -> str:
    """The text without what PostgreSQL cannot carry: NUL and lone surrogates."""
    return text.replace(chr(0), "").encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """The text on one line of at most 500 characters, each of which XML can carry.

    An error may quote a stranger's control characters, and Odoo 14 answers with them as they are.
    """
    text = " ".join(text.split())[:500]
    return "".join([letter if letter.isprintable() else chr(0xFFFD) for letter in text])


def begin() -> "Any":
    """Open a savepoint with all pending writes flushed, by Odoo's own means."""
    savepoint = env.cr.savepoint()
    try:
        enter = savepoint.gen.send  # Odoo 14: a generator meant for `with`
    except Exception:
        return savepoint  # Odoo 15 on: opened by being made
    enter(None)
    return savepoint


def keep(savepoint: "Any") -> None:
    """Flush and release the savepoint; a failing flush rolls it back and raises."""
    try:
        leave = savepoint.gen.send
    except Exception:
        savepoint.close(rollback=False)
        return
    try:
        leave(None)
    except Exception as error:
        if not repr(error).startswith("StopIteration"):
            raise


def undo(savepoint: "Any", error: Exception) -> None:
    """Roll back to the savepoint and forget pending writes."""
    try:
        fail = savepoint.gen.throw
    except Exception:
        savepoint.close(rollback=True)
        return
    try:
        fail(error)
    except Exception as same:
        if same is not error:
            raise


def is_transient(error: "Any") -> bool:
    """Whether PostgreSQL wants the whole transaction tried again: serialization, locks, shutdown, lost connection."""
    try:
        code = error.pgcode
    except Exception:
        return False  # not a database error
    return not code or code[:2] in ("08", "40", "53", "55", "57", "58")


def traces() -> "Any":
    """Answers made, aliases written (both by this transaction alone), and the newest message it can see."""
    env.cr.execute(
        "SELECT pg_stat_get_xact_tuples_inserted('mail_mail'::regclass),"
        " pg_stat_get_xact_tuples_updated('mail_alias'::regclass),"
        " (SELECT COALESCE(max(id), 0) FROM mail_message)"
    )
    return env.cr.fetchone()


def find(cursor: "Any", message_ids: "list[str]") -> "Any":
    """The stored messages with these Message-IDs: (Message-ID, id, model, res_id), oldest first."""
    cursor.execute(
        "SELECT message_id, id, model, res_id FROM mail_message WHERE message_id = ANY(%s) ORDER BY id", (message_ids,)
    )
    return cursor.fetchall()


def at(name: str, row: "Any", reason: str) -> "dict[str, Any]":
    """A verdict with its place: row is (id, model, res_id) of the mail.message."""
    return {
        "verdict": name,
        "mail_message_id": row[0],
        "model": row[1] or False,
        "res_id": row[2] or False,
        "reason": reason,
    }


def examine(raw: bytes) -> "tuple[bool, str]":
    """Whether Odoo takes this message for a bounce report (mail.thread._detect_is_bounce), and its Message-ID."""
    if "mail.alias.domain" in env:
        addresses = superuser["mail.alias.domain"].search([]).mapped("bounce_email")
    else:
        local_part = superuser["ir.config_parameter"].get_param("mail.bounce.alias")
        addresses = [local_part + "@", local_part + "+"] if local_part else []
    is_bounce, message_id = False, ""
    head = raw[:262144].replace(b"\r\n", b"\n").split(b"\n\n", 1)[0].decode("latin-1")
    for line in head.replace("\n ", " ").replace("\n\t", " ").split("\n"):
        name, _colon, value = line.partition(":")
        name, lowered = name.strip().lower(), value.strip().lower()
        if name == "message-id":
            message_id = value.strip()
        elif name == "content-type":
            is_bounce = is_bounce or lowered.startswith("multipart/report")
        elif name == "from":
            is_bounce = is_bounce or "mailer-daemon@" in lowered
        elif name in ("to", "delivered-to"):
            for address in addresses:
                is_bounce = is_bounce or address in lowered
    return is_bounce, clean(message_id)


def routable() -> "list[list[str]]":
    """[local part, domain] of every address that Odoo has a use for; domain "" where it looks at the local part alone.

    See mail.thread.message_route: the local part alone counts up to Odoo 16, and later for aliases that say so.
    """
    if "mail.alias.domain" in env:
        fields, places = ["alias_name", "alias_domain", "alias_incoming_local"], []
        for domain in superuser["mail.alias.domain"].search_read([], ["name", "catchall_alias", "bounce_alias"]):
            places += [[domain["catchall_alias"], domain["name"]], [domain["bounce_alias"], domain["name"]]]
    else:
        parameter = superuser["ir.config_parameter"].get_param
        fields, places = ["alias_name"], [[parameter("mail.catchall.alias"), ""], [parameter("mail.bounce.alias"), ""]]
    for alias in superuser["mail.alias"].search_read([("alias_name", "!=", False)], fields):
        local_only = alias.get("alias_incoming_local")
        places.append([alias["alias_name"], "" if local_only else alias.get("alias_domain") or ""])
    return [place for place in places if place[0]]


def describe(raw: bytes, key: str, result: "Any", before: "Any", after: "Any") -> "dict[str, Any]":
    """What became of a message that message_process took without an error."""
    # In this transaction's view the only messages newer than the newest one seen before are its own.
    env.cr.execute(
        "SELECT id, model, res_id FROM mail_message WHERE id > %s AND message_id = %s ORDER BY id", (before[2], key)
    )
    rows = env.cr.fetchall()
    if not rows and result:  # stored under another spelling of its Message-ID
        env.cr.execute(
            "SELECT id, model, res_id FROM mail_message WHERE id > %s AND res_id = %s ORDER BY id", (before[2], result)
        )
        rows = env.cr.fetchall()
    if rows:
        others = ", ".join([row[1] + " " + str(row[2]) for row in rows[:-1] if row[1]])
        return at("routed", rows[-1], "also in " + others if others else "")
    if result:
        return {"verdict": "routed", "reason": "Odoo kept no message of it"}
    answered = after[0] > before[0]
    if result is None and answered:
        return {"verdict": "ignored", "reason": "too many messages from this sender: Odoo has told them"}
    if result is None:
        return {"verdict": "ignored", "reason": "an answer to Odoo's own notice about too many messages"}
    if answered:
        return {"verdict": "ignored", "reason": "Odoo answered the sender that it does not take this message"}
    is_bounce, message_id = examine(raw)
    rows = find(env.cr, [message_id])
    if rows:
        return at("duplicate", rows[0][1:], "")
    if is_bounce:
        return {"verdict": "bounce"}
    # Some builds of 19 answer False while another process holds the message: neither stored nor refused.
    return {"verdict": "retry", "reason": "Odoo did not say what it did with the message"}


def refusal(error: Exception) -> "dict[str, Any]":
    """The verdict on a message that made message_process fail."""
    kind = one_line(repr(error).split("(", 1)[0])
    reason = one_line(str(error)) or kind
    if kind in ("LockError", "ConcurrencyError"):  # Odoo 18 on: somebody else is working on the record
        return {"verdict": "retry", "reason": reason}
    # Odoo's own no: nowhere to put it, or a record that may not be made from it (then Odoo has told the sender).
    noes = ("No possible route", "Mailbox unavailable", "Undeliverable mail")
    if isinstance(error, UserError) or str(error).startswith(noes):
        return {"verdict": "refused", "reason": reason}
    return {"verdict": "error", "reason": kind + ": " + reason}


superuser = env(user=1, context={})  # as in Odoo's own fetching; the caller's context would drag the raw mail along
asked = env.context.get("mailroom") or {}
messages = asked.get("messages") or []
keys = [clean(message.get("message_id") or message["id"]).strip() for message in messages]
known = {}  # type: dict[str, Any]
unseen = []  # known, but not to this transaction: an answer to one would not find its thread
if keys:
    # One lock per Message-ID, taken in one order by everybody, held until the commit.
    env.cr.execute("SET LOCAL lock_timeout = '10s'")
    env.cr.execute(
        "SELECT pg_advisory_xact_lock(%s, number) FROM"
        " (SELECT DISTINCT hashtext(name) AS number FROM unnest(%s) AS name ORDER BY number) AS numbers",
        (LOCK_SPACE, keys),
    )
    # This transaction's view is older than its locks: what their last holder stored shows only in a new one.
    fresh = env.registry.cursor()
    try:
        for row in find(fresh, keys):
            known[row[0]] = row[1:]
    finally:
        fresh.close()
    if known:
        seen = [row[0] for row in find(env.cr, list(known))]
        unseen = [key for key in known if key not in seen]

verdicts = []
failed, late = [], []  # threads
stop = ""
for number, message in enumerate(messages):
    verdict = {"id": message["id"], "verdict": "retry", "model": False, "res_id": False, "mail_message_id": False}
    verdict["reason"] = stop
    verdicts.append(verdict)
    if keys[number] in known:
        verdict.update(at("duplicate", known[keys[number]], ""))
        if message.get("thread") and keys[number] in unseen:
            late.append(message["thread"])
        continue
    if stop:
        continue
    if message.get("thread") in failed:
        verdict["reason"] = "an earlier message of its thread failed"
        continue
    if message.get("thread") in late:
        verdict["reason"] = "an earlier message of its thread was stored at the same time: ask again"
        continue
    callbacks, data = list(env.cr.postcommit._funcs), dict(env.cr.postcommit.data)
    savepoint = begin()
    try:
        raw = b64decode(message["raw"])
        before = traces()
        result = superuser["mail.thread"].message_process(False, raw)
        keep(savepoint)
    except Exception as error:
        if is_transient(error):
            raise  # Odoo rolls the whole call back and tries again
        undo(savepoint, error)
        # Rolling back leaves what was to be done after the commit, such as sending mails that are no longer there.
        env.cr.postcommit.clear()
        env.cr.postcommit.data.update(data)
        for callback in callbacks:
            env.cr.postcommit.add(callback)
        verdict.update(refusal(error))
        if message.get("thread") and verdict["verdict"] != "refused":
            failed.append(message["thread"])
        continue
    after = traces()
    verdict.update(describe(raw, keys[number], result, before, after))
    if message.get("thread") and verdict["verdict"] == "retry":
        failed.append(message["thread"])
    if after[1] > before[1]:
        # The alias was marked as working: its row is locked until the commit.  If a later message for it failed, Odoo
        # would mark it as broken from a second connection and wait for us for ever (_message_route_process).
        stop = "an alias was used for the first time: ask again for the rest"

wanted = [clean(message_id).strip() for message_id in asked.get("find") or []]
found = []
for row in find(env.cr, wanted) if wanted else []:
    place = at("known", row[1:], "")
    place["message_id"] = row[0]
    found.append(place)

answer = {"version": 1, "verdicts": verdicts, "found": found, "addresses": routable() if asked.get("addresses") else []}
action = {"type": "ir.actions.act_window_close", "mailroom": answer}
