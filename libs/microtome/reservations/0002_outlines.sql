-- What users drew as tissue. The file lies beside its slide and goes with it; here is how much room it takes.

create table outlines (
    slide_id   text   not null,
    sha256     text   not null,
    user_id    text   not null,
    size_bytes bigint not null,
    primary key (slide_id, sha256),
    constraint outlines_size check (size_bytes >= 0)
);
create index outlines_of_user on outlines (user_id);
comment on table outlines is 'Drawn tissue, one row for each drawing on a slide; written before its file.';
