-- Uploads that are under way, and the room that they have been promised. Not facts: a finished upload is a slide,
-- and an expired one never was anything.

create table uploads (
    upload_id   text        primary key,
    user_id     text        not null,
    size_bytes  bigint      not null,
    resumable   boolean     not null,
    metadata    text        not null,
    problem     jsonb,
    finished_at timestamptz,
    created_at  timestamptz not null default clock_timestamp(),
    expires_at  timestamptz not null,
    constraint uploads_size check (size_bytes >= 0)
);
create index uploads_of_user on uploads (user_id, created_at);
comment on table uploads is 'Uploads under way, one row each; the slide that comes of one has its id.';
comment on column uploads.size_bytes is 'Announced by the client, or, of a body of unknown length, promised so far.';
comment on column uploads.resumable is 'Whether it may be continued in another request (tus).';
comment on column uploads.metadata is 'Upload-Metadata as the client sent it.';
comment on column uploads.problem is '{code, detail} of an upload that came whole and was refused.';
