-- When the transaction ids of stored events were renumbered; see `microtome.eventlog.rebase`.

create table rebases (
    rebased_at  timestamptz not null default clock_timestamp(),
    rebased_by  text        not null default session_user,
    events      bigint      not null,
    greatest    xid8        not null,
    became      xid8        not null,
    constraint rebases_lower check (became < greatest)
);
comment on table rebases is 'Each time that the log was carried into another cluster: the only change that events know.';
comment on column rebases.greatest is 'The greatest transaction id of a stored event before.';
comment on column rebases.became is 'The greatest one afterwards, below all that this cluster will hand out.';
comment on constraint rebases_lower on rebases is 'Whoever renumbers without need has a bug.';
