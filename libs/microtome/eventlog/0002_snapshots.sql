-- What a fold had come to, so that the next start need not begin at the first event.

create table snapshots (
    name       text        primary key,
    format     integer     not null,
    xid        xid8        not null,
    position   bigint      not null,
    data       bytea       not null,
    stored_at  timestamptz not null default clock_timestamp(),
    constraint snapshots_named check (name <> '')
);
comment on table snapshots is 'A cache: whatever is lost or of another format is folded anew from the log.';
comment on column snapshots.format is 'The shape of the data; a program reads only its own.';
comment on column snapshots.position is 'With xid: the last event that is folded in.';
