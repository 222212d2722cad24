-- The log: one row per fact. Nothing here is ever changed or removed.

create table events (
    position       bigint      generated always as identity,
    xid            xid8        not null default pg_current_xact_id(),
    stream         text        not null,
    version        integer     not null,
    event_id       uuid        not null,
    tenant         text        not null,
    type           text        not null,
    schema_version smallint    not null,
    data           jsonb       not null,
    meta           jsonb       not null default '{}',
    at             timestamptz not null default clock_timestamp(),
    constraint events_position primary key (position),
    constraint events_one_event_per_version unique (stream, version),
    constraint events_stored_once unique (event_id),
    constraint events_named check (stream <> '' and type <> ''),
    constraint events_version_counts_from_one check (version >= 1),
    constraint events_schema_version_counts_from_one check (schema_version >= 1),
    constraint events_data_is_a_message check (jsonb_typeof(data) = 'object'),
    constraint events_meta_is_a_map check (jsonb_typeof(meta) = 'object')
);

comment on table events is 'The append-only log of facts; every other table can be rebuilt from it or does not matter.';
comment on column events.position is 'Handed out before commit: unique, but neither gapless nor in commit order.';
comment on column events.xid is 'The writing transaction. Readers page by (xid, position) below the snapshot''s xmin, which no late commit can undercut.';
comment on column events.version is 'Place in the stream, from 1, gapless.';
comment on column events.event_id is 'Chosen by the writer, so that writing again is harmless; also the message id on the bus.';
comment on column events.data is 'The message in canonical protobuf JSON, as it was when schema_version was current.';
comment on constraint events_one_event_per_version on events is 'Optimistic concurrency: of two writers who expect the same version one loses.';
comment on constraint events_stored_once on events is 'Effects are exactly once: an event id is stored once in the whole log.';

-- The only order in which the log may be read by a tailing reader.
create unique index events_by_cursor on events (xid, position);

create function events_refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the event log is append-only: % is refused', tg_op
        using errcode = 'restrict_violation', hint = 'Append a correcting event.';
end
$$;

create trigger events_append_only before update or delete or truncate on events
    for each statement execute function events_refuse_change();
-- Also when a replication role switches ordinary triggers off.
alter table events enable always trigger events_append_only;
comment on trigger events_append_only on events is 'Whoever asks, superuser included.';

-- A statement of the log must carry its own transaction, or the readers' guarantee is void.
create function events_check_origin() returns trigger language plpgsql as $$
begin
    if new.xid <> pg_current_xact_id() then
        raise exception 'the xid of an event is that of its transaction' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;

create trigger events_true_origin before insert on events
    for each row execute function events_check_origin();
comment on trigger events_true_origin on events is 'Nobody slips an event in behind the readers.';

create function events_wake_readers() returns trigger language plpgsql as $$
begin
    perform pg_notify('microtome_events', '');
    return null;
end
$$;

create trigger events_wake after insert on events
    for each statement execute function events_wake_readers();
comment on trigger events_wake on events is 'A wake-up only; readers fetch.';
