-- Leases: who works on which attempt, until when. Not facts: losing this table loses no work.

create table leases (
    job_id          text        primary key,
    attempt         integer     not null,
    owner           text,
    stage           text        not null,
    expires_at      timestamptz not null,
    tiles_total     integer,
    tiles_processed integer     not null default 0,
    tiles_skipped   integer     not null default 0,
    cells           bigint      not null default 0,
    updated_at      timestamptz not null default clock_timestamp(),
    constraint leases_known_stage check (stage in ('queued', 'plan', 'infer', 'merge')),
    constraint leases_attempt_counts_from_one check (attempt >= 1)
);
comment on table leases is 'One row per job; a row of another attempt than the job''s current one counts as absent.';
comment on column leases.owner is 'The process that works, or null while the job waits in a queue for one.';
comment on column leases.expires_at is 'By the clock of this database, the only one that all owners share.';
