-- How far the relay has published the log.

create table checkpoints (
    consumer   text        primary key,
    xid        xid8        not null,
    position   bigint      not null,
    updated_at timestamptz not null default clock_timestamp()
);
comment on table checkpoints is 'The last event that a consumer of the log has dealt with; events after it may come again.';
