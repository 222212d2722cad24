-- What was deleted is looked at again, in case a process was killed before the last file was gone.

create index slides_deleted on slides (deleted_at) where deleted_at is not null;
create index jobs_artifacts_deleted on jobs (artifacts_deleted_at) where artifacts_deleted_at is not null;
