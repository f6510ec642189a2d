# A shell's work: loops, arithmetic, cases, expansions; functions in subshells; small programs in pipes and substitutions.
label() {
    case $(($1 % 15)) in
    0) echo fizzbuzz ;;
    3 | 6 | 9 | 12) echo fizz ;;
    5 | 10) echo buzz ;;
    *) echo "$1" ;;
    esac
}

sum=0
i=0
while [ $i -lt 60000 ]; do
    i=$((i + 1))
    case $i in
    *7*) sum=$(((sum * 31 + i) % 1000003)) ;;
    *) sum=$((sum ^ i)) ;;
    esac
done
echo "sum $sum"

turn=0
path=/usr/lib/python3.11
while [ $turn -lt 40 ]; do
    turn=$((turn + 1))
    word=$(label $turn)
    name=$(basename "$path/module$turn.$word" ".$word")
    echo "$turn:${name#module}:${#word}:$(echo "$word" | sed 's/z/Z/g; s/^/</; s/$/>/')"
done | sort -t: -k4 | while IFS=: read -r number name length text; do
    printf '%03d %s %s %s\n' "$number" "$name" "$length" "$text"
done
