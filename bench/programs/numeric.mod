/* Numeric work: a production plan over places and periods, solved by the simplex method in floating point. */
param n := 50;
param m := 80;
param t := 4;
set I := 1..n;
set J := 1..m;
set T := 1..t;
param cost{i in I, j in J} := 10 + (i * 7919 + j * 104729) mod 97;
param need{j in J, k in T} := 5 + (j * 31 + k * 17) mod 23;
param room{i in I, k in T} := 20 + (i * 53 + k * 29) mod 41;
param keep{i in I} := 1 + i mod 5;

var ship{i in I, j in J, k in T} >= 0;
var made{i in I, k in T} >= 0;
var stock{i in I, k in 0..t} >= 0, <= 30;

minimize total: sum{i in I, j in J, k in T} cost[i, j] * ship[i, j, k] + sum{i in I, k in T} (keep[i] * stock[i, k] + 3 * made[i, k]);
s.t. start{i in I}: stock[i, 0] = 0;
s.t. balance{i in I, k in T}: stock[i, k - 1] + made[i, k] = stock[i, k] + sum{j in J} ship[i, j, k];
s.t. demand{j in J, k in T}: sum{i in I} ship[i, j, k] >= need[j, k];
s.t. limit{i in I, k in T}: made[i, k] <= room[i, k];
solve;
printf "total %.6f\n", total;
printf{j in J, k in T: need[j, k] > 20} "%d %d %.4f\n", j, k, sum{i in I} i * ship[i, j, k];
end;
