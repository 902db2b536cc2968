"""fetch-and-route: hand the mail that waits in a mailbox to Odoo, once each, and lose none.

The mailbox is the queue: INBOX waits, `Routed` is done, `Quarantine` holds what Odoo refused or failed on too often.
Odoo's database decides what it already has, so the program may die at any instruction and be run again.

`message`, `routing` and `xoauth2` are pure (bytes in, bytes or decisions out); `mailbox` (IMAP), `maildrop` (POP3 by
`pop3`, with `originals` as its quarantine), `oauth`, `odoo`, `state` and `backoff` are the edges, `sources` chooses
among the first; `calls` asks Odoo several times at once; `run` joins them; `watch` does so whenever mail comes (`idle`
hears of it, `notify` tells systemd); `report` is what a person or the journal sees; `commands` is what a person may ask
and do besides, `metrics` what Prometheus reads, `summary` what the postmaster is told once a day.
"""
