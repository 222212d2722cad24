-- Read models: what the API and the workers ask for, folded from the log.
-- Every row is written by the events of one stream only; that is why a replay gives identical rows,
-- although events of different streams may be seen in another order than they were committed.

create table slides (
    slide_id        text             primary key,
    user_id         text             not null,
    filename        text             not null,
    size_bytes      bigint           not null,
    sha256          text             not null,
    vendor          text             not null,
    width           integer          not null,
    height          integer          not null,
    mpp             double precision,
    mpp_source      smallint         not null,
    objective_power double precision,
    stain           smallint         not null,
    levels          jsonb            not null,
    notes           jsonb            not null,
    path            text             not null,
    registered_at   timestamptz      not null
);
create index slides_of_user on slides (user_id, registered_at desc, slide_id);
comment on table slides is 'Stream slide-<slide_id>.';
comment on column slides.mpp_source is 'Number of the enum MppSource.';

create table workflows (
    workflow_id text        primary key,
    user_id     text        not null,
    name        text        not null,
    created_at  timestamptz not null,
    -- The last event of the stream and its place in the log.
    version     integer     not null,
    xid         xid8        not null,
    position    bigint      not null
);
create index workflows_of_user on workflows (user_id, created_at desc, workflow_id);
comment on table workflows is 'Stream workflow-<workflow_id>. Its status follows from its jobs.';

create table jobs (
    job_id          text             primary key,
    workflow_id     text             not null references workflows,
    user_id         text             not null,
    ordinal         integer          not null,
    key             text             not null,
    type            smallint         not null,
    slide_id        text             not null,
    branch          text             not null,
    depends_on      text[]           not null,
    parameters      jsonb,
    status          text             not null,
    attempt         integer          not null,
    slot            integer,
    seated_user     text,
    failures        integer          not null,
    not_before      timestamptz,
    error           jsonb,
    planned         jsonb,
    result          jsonb,
    created_at      timestamptz      not null,
    started_at      timestamptz,
    finished_at     timestamptz
);
create index jobs_of_workflow on jobs (workflow_id, ordinal);
create index jobs_unfinished on jobs (job_id) where status in ('PENDING', 'RUNNING');
comment on table jobs is 'Stream workflow-<workflow_id>: one row per job, the fold of what happened to it.';
comment on column jobs.type is 'Number of the enum JobType.';
comment on column jobs.ordinal is 'Order of submission within the workflow, from 0.';
comment on column jobs.parameters is 'JobParameters in canonical JSON.';
comment on column jobs.attempt is 'The attempt that runs or ran last, 0 before the first.';
comment on column jobs.seated_user is 'The user while the job runs, null otherwise; refers to the seat.';
comment on column jobs.not_before is 'A pending job starts no earlier than this.';
comment on column jobs.error is '{code, detail, transient} of the last attempt that failed or was lost.';
comment on column jobs.planned is 'JobPlanned of the current attempt in canonical JSON.';
comment on column jobs.result is 'JobResult in canonical JSON.';
comment on column jobs.started_at is 'When the current attempt began.';

create table seats (
    seat       integer     primary key,
    user_id    text        not null,
    granted_at timestamptz not null,
    constraint seats_one_per_user unique (user_id)
);
comment on table seats is 'Stream seats: who is active.';
comment on constraint seats_one_per_user on seats is 'A user is active once.';
