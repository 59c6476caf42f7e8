-- Who did what to events, when and why.

-- name: begin_act
INSERT INTO evkit.audit (actor, act, target, reason, plan) VALUES (%s, %s, %s, %s, %s) RETURNING audit_id;

-- name: end_act
UPDATE evkit.audit SET result = %s WHERE audit_id = %s;
