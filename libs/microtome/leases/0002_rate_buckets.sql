-- How much each user may still ask for. Kept out of the write-ahead log: after a crash of Postgres all buckets are
-- full, which harms nobody, and a request does not wait for a disk.

create unlogged table rate_buckets (
    user_id text        primary key,
    full_at timestamptz not null
);
comment on table rate_buckets is 'Token buckets by database time, shared by all gateway processes.';
comment on column rate_buckets.full_at is 'When the bucket is full again; each token taken moves it on by the time that one token takes to come back.';
