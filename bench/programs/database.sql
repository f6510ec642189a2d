-- A database's work: transactions, an index, joins, grouping, updates, ordering; in a file.
PRAGMA journal_mode = DELETE;
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT, town TEXT);
CREATE TABLE purchase(id INTEGER PRIMARY KEY, customer INTEGER, day INTEGER, cents INTEGER, note TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
INSERT INTO customer SELECT i, printf('name%05d', i * 7919 % 10007), 'town' || (i * 31 % 97) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO purchase SELECT i, 1 + i * 7919 % 2000, i % 365, i * 104729 % 99991, printf('note %04x', i * 2654435761 % 65536) FROM n;
COMMIT;
CREATE INDEX purchase_customer ON purchase(customer, day);
SELECT town, count(*), sum(cents), max(note) FROM purchase JOIN customer ON customer.id = purchase.customer
 GROUP BY town ORDER BY 3 DESC LIMIT 10;
SELECT customer.name, sum(cents) AS total FROM customer JOIN purchase ON purchase.customer = customer.id
 WHERE day BETWEEN 100 AND 200 GROUP BY customer.id HAVING total > 100000 ORDER BY total DESC, 1 LIMIT 10;
UPDATE purchase SET cents = cents + 1, note = upper(note) WHERE day % 7 = 3;
DELETE FROM purchase WHERE note LIKE '%F_';
SELECT count(*), sum(cents), count(DISTINCT note) FROM purchase;
SELECT day, count(*), avg(cents) FROM purchase WHERE note > 'note 8' GROUP BY day ORDER BY 3 LIMIT 5;
PRAGMA integrity_check;
