-- The scheduling law as constraints, so that a bug in code cannot break it.
-- Apart from the tables, because a rebuild adds them when the replay is through: on the way, events of
-- different streams may pass in another order than they were committed.

create unique index jobs_one_running_per_branch on jobs (workflow_id, branch) where status = 'RUNNING';
comment on index jobs_one_running_per_branch is 'Of a branch at most one job runs.';

create unique index jobs_one_per_slot on jobs (slot) where status = 'RUNNING';
comment on index jobs_one_per_slot is 'A worker slot holds at most one job.';

create unique index jobs_key_in_workflow on jobs (workflow_id, key);
comment on index jobs_key_in_workflow is 'The user''s name for a job is unique in its workflow.';

alter table jobs
    add constraint jobs_known_status
        check (status in ('PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    add constraint jobs_running_has_slot
        check ((status = 'RUNNING') = (slot is not null)),
    add constraint jobs_running_is_seated
        check ((status = 'RUNNING') = (seated_user is not null) and (seated_user is null or seated_user = user_id)),
    add constraint jobs_finished_has_end
        check ((status in ('SUCCEEDED', 'FAILED', 'CANCELLED')) = (finished_at is not null)),
    add constraint jobs_user_holds_seat
        foreign key (seated_user) references seats (user_id) deferrable initially deferred;
create index jobs_by_seated_user on jobs (seated_user) where seated_user is not null;

comment on constraint jobs_known_status on jobs is 'The states of a job.';
comment on constraint jobs_running_has_slot on jobs is 'Running and occupying a worker slot are the same thing.';
comment on constraint jobs_running_is_seated on jobs is 'A running job refers to the seat of its own user.';
comment on constraint jobs_finished_has_end on jobs is 'What is over has an end, what is not has none.';
comment on constraint jobs_user_holds_seat on jobs is 'Only jobs of active users run; checked at commit.';
