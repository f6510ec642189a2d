/*
 * A triple fault: no gate for #UD, #GP and #DF. The machine must end, its state shown (run_guest.py looks).
 */
#include "guest.h"

int main(void)
{
    print("ok it starts\n");
    set_gate(DF, 0, 0, 0, 0);
    set_gate(GP, 0, 0, 0, 0);
    set_gate(UD, 0, 0, 0, 0);
    asm volatile("ud2");
    return 0;
}
