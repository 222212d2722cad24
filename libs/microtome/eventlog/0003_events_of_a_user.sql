-- What a live client of one user missed is read in the log's order without looking at everybody else's events.
create index events_of_user on events (tenant, xid, position);
