/* Floating point: SSE2 doubles as compilers make them, the C library's functions, x87. Results are compared bit by bit. */
#include "kit.h"

#include <math.h>
#include <string.h>

static u64 bits(double d)
{
    u64 v;
    memcpy(&v, &d, 8);
    return v;
}

/* Positions, velocities and masses of five bodies. */
static const double bodies[5][7] = {{0, 0, 0, 0, 0, 0, 39.47},
                                    {4.84, -1.16, -.10, .6063, 2.81, -.02, .0376},
                                    {8.34, 4.12, -.4, -1.01, 1.82, .008, .0112},
                                    {12.89, -15.11, -.22, 1.08, .868, -.01, .0017},
                                    {15.37, -25.9, .179, .979, .594, -.034, .002}};

static void attract(double *a, double *b)
{
    double dx = a[0] - b[0], dy = a[1] - b[1], dz = a[2] - b[2];
    double d2 = dx * dx + dy * dy + dz * dz, m = 0.001 / (d2 * sqrt(d2));
    a[3] -= dx * b[6] * m;
    a[4] -= dy * b[6] * m;
    a[5] -= dz * b[6] * m;
    b[3] += dx * a[6] * m;
    b[4] += dy * a[6] * m;
    b[5] += dz * a[6] * m;
}

WORK fp_nbody(void)
{
    double b[5][7];
    u64 h = 0;
    memcpy(b, bodies, sizeof(b));
    for (int n = 0; n < 4000; n++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++)
                attract(b[i], b[j]);
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 3; k++)
                b[i][k] += 0.001 * b[i][k + 3];
    }
    for (int i = 0; i < 5; i++)
        h = h * 31 ^ bits(b[i][0]);
    return h;
}

WORK fp_matmul(void)
{
    enum { N = 96 };
    static double a[N][N], b[N][N], c[N][N];
    double s = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i - j * .5;
            b[i][j] = i * .25 + j;
            c[i][j] = 0;
        }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            double x = a[i][k];
            for (int j = 0; j < N; j++)
                c[i][j] += x * b[k][j];
        }
    for (int i = 0; i < N; i++)
        s += c[i][(i * 7) % N];
    return bits(s);
}

WORK fp_libm(void)
{
    double s = 0;
    for (int i = 0; i < 10000; i++)
        s += sin(i * .01) * exp(-i * .0001);
    return (u64)(s * 1e6 + 0.5);
}

WORK fp_x87(void)
{
    long double x = 1.0L, s = 0;
    u64 v;
    for (int i = 1; i < 50000; i++) {
        x = x * 1.0000001L + 1.0L / i;
        s += x;
    }
    memcpy(&v, &s, 8);
    return v;
}

static const struct workload rows[] = {
    {"fp_nbody", fp_nbody, 0xfe813debf6ab46f5, 1, "ns/op", 0, 0, 0},
    {"fp_matmul", fp_matmul, 0x416927e000000000, 1, "ns/op", 0, 0, 0},
    {"fp_libm", fp_libm, 0x415f9cf, 1, "ns/op", 0, 0, 0},
    {"fp_x87", fp_x87, 0x8b74d7fc0d12ea54, 1, "ns/op", 0, 0, 0},
};
WORK_TABLE(work_float, rows);
