-- Drafts, skipped and preempted jobs, branch policies, deletion; what lists filter and page by.
-- What old rows say of the new columns is what a replay of their events says.

alter table slides add column deleted_at timestamptz;
comment on column slides.deleted_at is 'Since when its pixels are gone; what was found on it stays.';

alter table workflows
    add column branches  jsonb   not null default '[]',
    add column submitted integer not null default 0,
    add column next_turn integer not null default 0,
    add column status    text    not null default 'PENDING';
comment on column workflows.branches is 'Branches whose policy was chosen, as Branch in canonical JSON.';
comment on column workflows.submitted is 'How many of its jobs came with the submission; the others were added.';
comment on column workflows.next_turn is 'The turn of the next job that joins the line of its branch.';
comment on column workflows.status is 'What follows from its jobs; kept so that lists can filter by it.';

alter table jobs
    add column turn                 integer not null default 0,
    add column draft                boolean not null default false,
    add column expected_tiles       integer not null default 0,
    add column released             boolean not null default false,
    add column preemptions          integer not null default 0,
    add column ran                  interval not null default '0',
    add column cause_job_id         text,
    add column artifacts_deleted_at timestamptz,
    add column artifact_bytes       bigint  not null default 0;
comment on column jobs.turn is 'Order in the line of its branch; a draft joins the line when it is released.';
comment on column jobs.draft is 'Whether it was submitted as a draft.';
comment on column jobs.released is 'Whether the draft was started since.';
comment on column jobs.ran is 'How long attempts ran that were lost or preempted and whose tiles the next one finds.';
comment on column jobs.expected_tiles is 'Its work by the size of its slide or region, until the plan says more.';
comment on column jobs.preemptions is 'How often it gave its slot to another user.';
comment on column jobs.cause_job_id is 'The job that came to nothing and because of which this one is skipped.';
comment on column jobs.artifacts_deleted_at is 'Since when its files are gone.';
comment on column jobs.artifact_bytes is 'Size of its files; 0 once they are deleted.';

update jobs set turn = ordinal;
update jobs set artifact_bytes = (
    select coalesce(sum((artifact ->> 'sizeBytes')::bigint), 0)
    from jsonb_array_elements(result -> 'artifacts') as artifact
) where result ? 'artifacts';
update workflows set (submitted, next_turn) = (
    select count(*), count(*) from jobs where jobs.workflow_id = workflows.workflow_id
);

-- How long lost attempts ran since the submission or the user's last retry, only the log remembers.
update jobs set ran = lost.ran from (
    select l.data ->> 'jobId' as job_id, sum(greatest(l.at - s.at, '0')) as ran
    from events l join events s
      on s.stream = l.stream and s.type = 'JobStarted'
     and s.data ->> 'jobId' = l.data ->> 'jobId' and s.data ->> 'attempt' = l.data ->> 'attempt'
    where l.type = 'JobAttemptLost' and not exists (
        select from events r
        where r.stream = l.stream and r.type = 'JobRetried' and r.version > l.version
          and r.data ->> 'jobId' = l.data ->> 'jobId'
    )
    group by l.data ->> 'jobId'
) as lost where lost.job_id = jobs.job_id;

-- Until now every branch halted: a pending job is held up by a failed or cancelled one that it depends on, or by one
-- before it in its branch that is itself held up or failed.
with recursive held_up (job_id) as (
    select job_id from jobs where status in ('FAILED', 'CANCELLED')
    union
    select later.job_id
    from held_up
    join jobs as earlier using (job_id)
    join jobs as later on later.workflow_id = earlier.workflow_id and later.status = 'PENDING'
     and (earlier.job_id = any(later.depends_on)
          or (earlier.status <> 'CANCELLED' and later.branch = earlier.branch and later.ordinal > earlier.ordinal))
), summary as (
    select workflow_id,
           bool_or(status = 'RUNNING' or (status = 'PENDING' and held_up.job_id is null)) as can_run,
           bool_or(attempt > 0) as begun,
           bool_and(status = 'SUCCEEDED') as succeeded,
           bool_or(status = 'FAILED') as failed
    from jobs left join held_up using (job_id)
    group by workflow_id
)
update workflows set status = case
    when can_run and begun then 'RUNNING'
    when can_run then 'PENDING'
    when succeeded then 'SUCCEEDED'
    when failed then 'FAILED'
    else 'CANCELLED'
end
from summary where summary.workflow_id = workflows.workflow_id;

alter table workflows
    add constraint workflows_known_status
        check (status in ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED'));
comment on constraint workflows_known_status on workflows is 'The states of a workflow.';

alter table jobs
    drop constraint jobs_known_status,
    drop constraint jobs_finished_has_end,
    add constraint jobs_known_status
        check (status in ('DRAFT', 'PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'SKIPPED')),
    add constraint jobs_finished_has_end
        check ((status in ('SUCCEEDED', 'FAILED', 'CANCELLED', 'SKIPPED')) = (finished_at is not null)),
    add constraint jobs_skipped_has_cause
        check ((status = 'SKIPPED') = (cause_job_id is not null));
comment on constraint jobs_known_status on jobs is 'The states of a job.';
comment on constraint jobs_finished_has_end on jobs is 'What is over has an end, what is not has none.';
comment on constraint jobs_skipped_has_cause on jobs is 'Nothing is skipped without a reason.';

-- Lists: newest first, filtered, page by page.
drop index workflows_of_user;
create index workflows_of_user on workflows (user_id, created_at, workflow_id);
create index workflows_of_user_by_status on workflows (user_id, status, created_at, workflow_id);
drop index slides_of_user;
create index slides_of_user on slides (user_id, registered_at, slide_id) include (size_bytes, deleted_at);
create index jobs_of_user on jobs (user_id, created_at, workflow_id, ordinal);
create index jobs_of_user_by_status on jobs (user_id, status, created_at, workflow_id, ordinal);
create index jobs_of_slide on jobs (slide_id, workflow_id);
