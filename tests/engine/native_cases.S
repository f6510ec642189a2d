/*
 * Instructions for native_test.c, one after the other between two labels. The test finds their ends by decoding.
 *
 * Registers that hold addresses when a case is run: RBX RSP RBP RSI RDI R12 R13; R9 is a small index. All others hold
 * random values, and so do vectors, masks and the x87 stack.
 */
    .intel_syntax noprefix
    .section .rodata
    .globl native_cases64, native_cases64_end
    .hidden native_cases64, native_cases64_end
native_cases64:
    /* odd integer instructions; renamed registers in every encoding field */
    popcnt rax, rcx
    popcnt rsp, r12
    popcnt r14, [rsp+r9*4+8]
    lzcnt rbp, rbp
    tzcnt r15d, [r12]
    bsf rax, rdx
    bsr r13, r14
    bswap rbp
    bswap r12d
    bswap rdx
    crc32 rax, r12
    crc32 r13d, byte ptr [rbx]
    crc32 esp, ah
    crc32 eax, bh
    movbe rax, [rbx]
    movbe [rbp+8], r13w
    movbe [rsp], esp
    adcx rax, r12
    adcx rsp, [rbx]
    adox r13, rsp
    adox ecx, [rsi]
    mulx rax, rdx, rcx
    mulx rsp, rbp, r12
    mulx r13, r14, [rsp]
    mulx r12d, r12d, r15d
    andn rax, rsp, [rbx]
    andn r12, r13, r14
    andn ebp, esp, ebp
    bextr rax, [r13], r12
    bextr r14d, r15d, esp
    blsi rsp, rbp
    blsmsk r12d, [rbx]
    blsr rax, r15
    bzhi rsp, [rsp], rsp
    bzhi r8, r9, r12
    pdep r12, rbp, [rbx]
    pdep rax, rsp, rsp
    pext r13, r14, r15
    pext ecx, r12d, [rbp]
    rorx rsp, r12, 13
    rorx eax, [rbx], 7
    sarx r12, [rbx], rbp
    shlx rsp, rbp, r13
    shrx rax, rcx, rdx
    shld rax, r12, cl
    shld [rbx], rsp, 13
    shrd r14w, bp, cl
    shrd [rsp], r12d, cl
    xadd rax, r12
    xadd [rbx], rsp
    xadd [rsp+16], ah
    xadd bh, al
    xadd spl, r12b
    lock xadd [rbx], r13
    cmpxchg r12, rsp
    cmpxchg [rbx], r14
    lock cmpxchg [rbp], cl
    cmpxchg8b [rbx]
    cmpxchg8b [rsi+r9]
    cmpxchg8b [rsp]
    cmpxchg16b [rbx]
    cmpxchg16b [r12]
    lock cmpxchg16b [rbp+16]
    div rcx
    div r12d
    div byte ptr [rbx]
    div bh
    idiv rsp
    idiv dword ptr [rsi]
    idiv r14w
    mul r12
    mul qword ptr [rsp]
    mul ah
    imul r13
    imul rsp, rbp
    imul r12, [rbx], 77
    imul r15w, bp, -3
    cbw
    cwde
    cdqe
    cwd
    cdq
    cqo
    lahf
    sahf
    clc
    stc
    cmc
    setz bpl
    setc [rbx]
    seto r12b
    cmovz rsp, r12
    cmovc eax, [rbx]
    adc r12, rsp
    sbb [rbx], rbp
    rcl r13, 3
    rcr qword ptr [rbx], cl
    rol r12w, cl
    ror bpl, 1
    shl r14, cl
    sar dword ptr [rsp], 5
    bt r12, rsp
    bts rbp, 5
    btr dword ptr [rbx], 3
    btc r13d, r14d
    xchg r12, rsp
    xchg [rbx], bpl
    movzx esp, ch
    movzx eax, ah
    movsx r13, byte ptr [rbx]
    movsxd rbp, r12d
    movnti [rbx], r12
    neg qword ptr [rsp]
    not r12b
    inc rsp
    dec byte ptr [rbx]
    test r12, rsp
    add r13, 0x12345678
    sub ebp, [rbx]
    cmp [rsp], r12b
    xor cl, bh
    nop word ptr [rbx+r9*8]
    nop
    pause
    lfence
    mfence
    sfence
    prefetcht0 [rbx]
    prefetchw [rsi]
    clflush [rbx]
    clflushopt [rsi]
    clwb [rsp]

    /* MMX */
    movd mm0, esp
    movq mm1, r12
    movq mm2, [rbx]
    movq [rsp], mm3
    movd ebp, mm4
    paddb mm0, mm1
    pmaddwd mm2, [rbx]
    pshufw mm3, mm4, 0x1b
    pmovmskb r12d, mm5
    pinsrw mm6, esp, 2
    pextrw ebp, mm7, 1
    psadbw mm0, [rsi]
    movntq [rbx], mm1
    maskmovq mm0, mm1
    pabsb mm2, mm3
    palignr mm4, [rbx], 3
    cvtpi2ps xmm1, mm2
    cvtps2pi mm3, xmm4
    cvttpd2pi mm3, [rbx]
    movq2dq xmm5, mm6
    movdq2q mm7, xmm0
    emms

    /* SSE .. SSE4.2, AES, SHA, GFNI */
    movaps xmm1, xmm2
    movaps xmm9, [rbx]
    movaps [rsp], xmm15
    movups xmm3, [rsi]
    movups [rsi], xmm3
    movss xmm1, xmm2
    movss xmm1, [rbx]
    movss [rbx], xmm1
    movsd xmm8, xmm2
    movhps xmm3, [rbx]
    movlps [rsi], xmm4
    movhlps xmm1, xmm12
    unpcklps xmm1, [rbx]
    shufps xmm1, xmm2, 0x4e
    movmskps r12d, xmm3
    movmskpd esp, xmm9
    addps xmm1, xmm2
    addsd xmm10, [rbx]
    mulss xmm1, [rsp]
    divps xmm1, [rbx]
    divsd xmm3, xmm4
    sqrtpd xmm5, xmm6
    sqrtss xmm5, [rbx]
    rcpps xmm1, xmm2
    rsqrtss xmm1, xmm2
    minps xmm1, xmm2
    maxsd xmm1, [rbx]
    cmpps xmm1, xmm2, 1
    cmpsd xmm1, [rbx], 5
    comiss xmm1, xmm2
    ucomisd xmm1, [rbx]
    cvtsi2sd xmm1, r12
    cvtsi2ss xmm2, esp
    cvtsi2sd xmm2, dword ptr [rbx]
    cvttsd2si rsp, xmm3
    cvtsd2si r12d, [rbx]
    cvtps2pd xmm1, [rbx]
    cvtpd2ps xmm1, xmm2
    cvtdq2ps xmm1, [rbx]
    cvttps2dq xmm1, xmm2
    haddps xmm1, xmm2
    addsubpd xmm1, [rbx]
    dpps xmm1, xmm2, 0x7f
    roundsd xmm1, [rbx], 4
    roundps xmm1, xmm2, 3
    ldmxcsr [rbx]
    stmxcsr [rbp]
    movdqa [rbx], xmm2
    movdqu xmm2, [rsi]
    lddqu xmm2, [rsi]
    movq xmm1, r12
    movq rsp, xmm2
    movd xmm3, ebp
    movd [rbx], xmm3
    movntdq [rbx], xmm1
    movntps [rsi], xmm1
    movntdqa xmm1, [rbx]
    paddd xmm1, xmm2
    paddq xmm11, [rbx]
    pmulhw xmm1, [rsi]
    pmuludq xmm1, xmm2
    psadbw xmm1, xmm2
    pshufd xmm1, [rbx], 0x93
    pshufb xmm1, xmm2
    psrldq xmm1, 5
    psllq xmm1, xmm2
    psraw xmm1, 3
    packuswb xmm1, xmm2
    punpckhqdq xmm1, [rbx]
    pmovmskb r13d, xmm2
    pinsrw xmm1, r12d, 3
    pinsrb xmm1, [rbx], 7
    pinsrq xmm1, rsp, 1
    pextrb [rsi], xmm2, 5
    pextrd r14d, xmm2, 2
    pextrq rbp, xmm2, 1
    extractps esp, xmm1, 1
    insertps xmm1, [rbx], 0x1d
    maskmovdqu xmm1, xmm2
    pblendvb xmm1, xmm2
    blendvps xmm3, [rbx]
    pmovzxbd xmm1, dword ptr [rbx]
    pmovsxwq xmm1, xmm2
    ptest xmm1, [rbx]
    phminposuw xmm1, xmm2
    mpsadbw xmm1, xmm2, 3
    pcmpestri xmm1, xmm2, 0x0c
    pcmpestrm xmm1, [rbx], 0x40
    pcmpistri xmm1, [rsi+r9], 0x1a
    pcmpistrm xmm1, xmm2, 0x44
    pcmpgtq xmm1, xmm2
    pclmulqdq xmm1, [rbx], 0x11
    aesenc xmm1, xmm2
    aesdeclast xmm1, [rbx]
    aesimc xmm1, xmm2
    aeskeygenassist xmm1, xmm2, 0x1b
    sha1rnds4 xmm1, xmm2, 2
    sha1nexte xmm1, [rbx]
    sha256rnds2 xmm1, xmm2
    sha256msg1 xmm3, xmm4
    gf2p8mulb xmm1, xmm2
    gf2p8affineqb xmm1, [rbx], 3

    /* AVX, AVX2, FMA, F16C */
    vaddps ymm1, ymm2, ymm3
    vaddps xmm1, xmm2, [rbx]
    vaddsd xmm1, xmm2, [rsi]
    vmulpd ymm9, ymm10, [rsp]
    vsqrtsd xmm1, xmm2, xmm3
    vcmpps ymm1, ymm2, ymm3, 0x11
    vcvtsi2sd xmm1, xmm2, r12
    vcvttsd2si rsp, [rbx]
    vcvtpd2ps xmm1, ymm2
    vcvtps2ph [rbx], ymm2, 0
    vcvtph2ps ymm1, [rbx]
    vmovaps ymm1, [rbx]
    vmovaps [rbx], ymm1
    vmovups [rsi], ymm1
    vmovdqa xmm1, xmm2
    vmovdqu ymm1, [rsi]
    vmovd xmm1, esp
    vmovq r12, xmm1
    vmovntdq [rbx], ymm1
    vpaddd ymm1, ymm2, [rsi]
    vpaddd xmm1, xmm2, xmm3
    vpshufb ymm1, ymm2, ymm3
    vpermq ymm1, [rbx], 0x1b
    vpermd ymm1, ymm2, [rbx]
    vperm2f128 ymm1, ymm2, ymm3, 0x31
    vextracti128 [rbx], ymm2, 1
    vinserti128 ymm1, ymm2, [rbx], 1
    vbroadcastss ymm1, [rbx]
    vpbroadcastb ymm1, xmm2
    vpsllvd ymm1, ymm2, [rbx]
    vblendvps ymm1, ymm2, ymm3, ymm4
    vpblendvb xmm1, xmm2, [rbx], xmm4
    vpmovmskb r13d, ymm2
    vpextrq rbp, xmm1, 1
    vpinsrd xmm1, xmm2, esp, 1
    vpsrldq ymm1, ymm2, 3
    vptest ymm1, [rbx]
    vtestps ymm1, ymm2
    vpcmpistri xmm1, [rbx], 0x18
    vaesenc xmm1, xmm2, [rbx]
    vldmxcsr [rbx]
    vstmxcsr [rbx]
    vfmadd231ps ymm1, ymm2, [rbx]
    vfnmsub132sd xmm1, xmm2, xmm3
    vmaskmovps ymm1, ymm2, [rbx]
    vmaskmovps [rbx], ymm2, ymm1
    vmaskmovpd xmm1, xmm2, [rsi]
    vmaskmovpd [rsi], xmm2, xmm1
    vpmaskmovd ymm1, ymm2, [rsi]
    vpmaskmovd [rsi], ymm2, ymm1
    vpmaskmovq [rbx], xmm2, xmm1
    vmaskmovdqu xmm1, xmm2
    vzeroupper
    vzeroall

    /* AVX-512 */
    vaddps zmm1, zmm2, zmm3
    vaddps zmm17, zmm18, [rbx]
    vaddps zmm1{k1}, zmm2, zmm3
    vaddps zmm1{k1}{z}, zmm2, [rbx]
    vaddpd zmm1{k3}, zmm2, qword ptr [rsi]{1to8}
    vaddps zmm1, zmm2, zmm3, {rz-sae}
    vmaxps zmm20, zmm21, zmm22, {sae}
    vaddsd xmm1{k1}, xmm2, [rbx]
    vaddss xmm1{k2}{z}, xmm2, xmm3
    vdivps ymm17, ymm18, [rsi]
    vsqrtpd zmm5, [rbx]
    vfmadd213ps zmm1{k1}, zmm2, [rbx]
    vcvtsi2sd xmm17, xmm18, r12
    vcvtusi2ss xmm17, xmm18, esp
    vcvttsd2usi rsp, xmm17
    vcvttpd2uqq zmm1, zmm2
    vcvtps2ph [rbx]{k1}, zmm2, 0
    vcvtps2pd zmm1{k1}, [rbx]
    vrndscaleps zmm1, [rbx], 3
    vgetexppd zmm1, zmm2
    vgetmantps zmm1, zmm2, 5
    vfixupimmps zmm1, zmm2, [rbx], 3
    vrangepd zmm1, zmm2, zmm3, 2
    vreducess xmm1, xmm2, xmm3, 1
    vrcp14ps zmm1, [rbx]
    vfpclassps k3, zmm2, 0x7f
    vscalefpd zmm1, zmm2, zmm3
    vmovaps [rbx], zmm1
    vmovaps zmm31, [rbx]
    vmovups [rsi], zmm30
    vmovdqu8 zmm1{k1}, [rbx]
    vmovdqu8 zmm1{k1}{z}, [rsi]
    vmovdqu8 [rsi]{k1}, zmm1
    vmovdqu16 [rbx]{k2}, ymm17
    vmovdqu32 zmm2{k3}, [rsi]
    vmovdqu64 [rsi]{k4}, zmm3
    vmovdqa32 [rbx]{k5}, zmm4
    vmovdqa64 zmm6{k6}{z}, [rbx]
    vmovss [rbx]{k1}, xmm2
    vmovsd xmm3{k7}, [rbx]
    vpaddb zmm1{k1}, zmm2, zmm3
    vpaddd xmm16, xmm17, xmm18
    vpternlogd zmm1, zmm2, [rbx], 0x96
    vpermb zmm1, zmm2, zmm3
    vpermi2d zmm1, zmm2, [rbx]
    vpermt2w zmm17{k1}{z}, zmm2, zmm3
    vpermd zmm1{k1}, zmm2, [rbx]
    vpcmpub k1{k2}, zmm2, zmm3, 1
    vpcmpeqd k2, zmm2, [rbx]
    vcmppd k3{k1}, zmm1, zmm2, 0x1d
    vptestmq k4, zmm1, qword ptr [rbx]{1to8}
    vpmovqb [rbx]{k1}, zmm2
    vpmovusdw [rsi], zmm3
    vpmovswb ymm1, zmm2
    vpmovzxbw zmm1{k1}, [rbx]
    vpmovm2b zmm1, k2
    vpmovd2m k3, zmm4
    vpbroadcastq zmm1{k1}, r12
    vpbroadcastd zmm1{k1}, [rbx]
    vbroadcastf32x4 zmm1{k1}, [rbx]
    vbroadcasti64x4 zmm1, [rsi]
    vextractf32x4 [rbx]{k1}, zmm2, 3
    vextracti64x4 ymm1, zmm2, 1
    vinserti32x8 zmm1, zmm2, [rbx], 1
    vpcompressd [rbx]{k1}, zmm2
    vpcompressb [rsi]{k2}, zmm3
    vcompresspd zmm1{k3}, zmm2
    vpexpandd zmm1{k1}{z}, [rbx]
    vpexpandb zmm1{k2}, [rsi]
    vexpandps zmm1{k3}, [rbx]
    vpconflictd zmm1, zmm2
    vplzcntq zmm1, [rbx]
    vpopcntb zmm1, zmm2
    vpshldvd zmm1, zmm2, zmm3
    vpmultishiftqb zmm1, zmm2, zmm3
    vpmadd52luq zmm1, zmm2, [rbx]
    vpdpbusd zmm1, zmm2, zmm3
    vdbpsadbw zmm1, zmm2, zmm3, 4
    vaesenc zmm1, zmm2, [rbx]
    vpclmulqdq zmm1, zmm2, zmm3, 1
    vpextrw ebp, xmm17, 3
    vpinsrq xmm17, xmm18, r13, 1
    vmovq rsp, xmm20
    valignd zmm1, zmm2, zmm3, 5
    vshuff64x2 zmm1, zmm2, [rbx], 0x1b
    kaddb k1, k2, k3
    kandq k1, k2, k3
    kmovw k1, esp
    kmovq r12, k2
    kmovq k3, [rbx]
    kmovd [rsi], k4
    knotw k1, k2
    kortestq k1, k2
    kshiftlq k1, k2, 7
    ktestw k1, k2
    kunpckdq k1, k2, k3

    /* x87 */
    fld st(3)
    fld dword ptr [rbx]
    fld qword ptr [rsi]
    fld tbyte ptr [rsp]
    fild word ptr [rbx]
    fild qword ptr [rbp]
    fst dword ptr [rbx]
    fstp qword ptr [rsi]
    fstp tbyte ptr [rbx]
    fistp dword ptr [rbx]
    fisttp qword ptr [rbx]
    fbld [rbx]
    fbstp [rsi]
    fadd st(0), st(1)
    faddp
    fadd dword ptr [rbx]
    fmul qword ptr [rsi]
    fsubr st(2), st(0)
    fdiv st(0), st(3)
    fdivp st(1), st(0)
    fidiv word ptr [rbx]
    fsqrt
    fabs
    fchs
    frndint
    fscale
    fprem
    fprem1
    fxtract
    f2xm1
    fyl2x
    fyl2xp1
    fpatan
    fptan
    fsin
    fcos
    fsincos
    fldpi
    fldl2e
    fldz
    fcom st(1)
    fcompp
    fucomi st(0), st(1)
    fcomip st(0), st(2)
    fcmovb st(0), st(3)
    fcmovnu st(0), st(1)
    ftst
    fxam
    fxch st(2)
    ffree st(3)
    fincstp
    fdecstp
    fnop
    fwait
    fnclex
    fninit
    fnstcw [rbx]
    fldcw [rbx]
    fnstsw ax
    fnstsw [rbx]
    fnstenv [rbx]
    data16 fnstenv [rbx]
    fldenv [rbx]
    data16 fldenv [rbx]
    fnsave [rbx]
    frstor [rbx]
    data16 fnsave [rsi]
    data16 frstor [rsi]

    /* gathers and scatters */
    vgatherdps ymm1, [rbx+ymm5*4], ymm3
    vgatherdps xmm1, [rsi+xmm5*1], xmm3
    vgatherdpd ymm1, [rbx+xmm5*8], ymm3
    vgatherqps xmm1, [rbx+ymm6*4], xmm3
    vgatherqpd ymm1, [rbx+ymm6*8+4], ymm3
    vpgatherdd ymm1, [rsp+ymm5*8], ymm3
    vpgatherdq xmm1, [rbx+xmm5*2], xmm3
    vpgatherqd xmm1, [rbx+xmm6*4], xmm3
    vpgatherqq xmm1, [rbx+xmm6*4], xmm3
    vgatherdps zmm1{k1}, [rbx+zmm5*4]
    vgatherdpd zmm1{k2}, [r12+ymm5*8]
    vgatherqps ymm1{k3}, [rbx+zmm6*4]
    vgatherqpd zmm1{k4}, [rbx+zmm6*8]
    vpgatherdd xmm1{k5}, [rbx+xmm5*4-8]
    vpgatherdq ymm17{k6}, [rbx+xmm5*4]
    vpgatherqd xmm1{k7}, [rbx+ymm6*2]
    vpgatherqq zmm1{k1}, [rsi+zmm6*8]
    vscatterdps [rbx+zmm5*4]{k1}, zmm1
    vscatterdpd [rbx+ymm5*8]{k2}, zmm1
    vscatterqps [rbx+ymm6*4]{k3}, xmm1
    vpscatterdd [rsi+ymm5*2]{k4}, ymm1
    vpscatterdq [rbx+xmm5*8]{k5}, ymm1
    vpscatterqd [rbx+zmm6*4]{k6}, ymm1
    vpscatterqq [r12+xmm6*8]{k7}, xmm17
native_cases64_end:

/* The same instructions in 32-bit and 16-bit code (with 32-bit addresses), and what they are in 64-bit code. */
    .globl native_cases32, native_cases32_end, native_cases16, native_cases16_end, native_cases3264, native_cases3264_end
    .hidden native_cases32, native_cases32_end, native_cases16, native_cases16_end, native_cases3264, native_cases3264_end
    .macro narrow_cases
    popcnt ecx, [ebx]
    bswap edx
    shld ebp, edi, cl
    imul edx, [esi], 1000
    imul cx, dx, 77
    mul dword ptr [ebx]
    adcx eax, edx
    andn eax, ebp, [ebx]
    mulx edi, edx, ecx
    pdep ecx, edx, [ebp]
    rorx eax, ebx, 3
    crc32 eax, byte ptr [ebx]
    movbe [ebx], cx
    xadd [ebx], edx
    cmpxchg8b [esi]
    movd xmm1, ebp
    movd [ebx], xmm2
    paddd xmm1, [ebx]
    mulsd xmm1, xmm2
    cvtsi2sd xmm1, dword ptr [ebx]
    cvttsd2si edx, xmm3
    pextrd [ebx], xmm1, 1
    pinsrw xmm1, ecx, 3
    pcmpestri xmm1, [ebx], 0x0c
    vaddpd ymm1, ymm2, [esi]
    vpxor xmm1, xmm2, xmm3
    vmovd ecx, xmm1
    vfmadd132ss xmm1, xmm2, [ebx]
    vpternlogd zmm1, zmm2, [ebx], 0x96
    vmovdqu8 [ebx]{k1}, zmm1
    vpbroadcastd zmm1{k1}, ecx
    kmovd k1, ecx
    paddb mm0, [ebx]
    fld qword ptr [ebx]
    fstp tbyte ptr [ebx]
    fiadd dword ptr [esi]
    fnstcw [ebx]
    ldmxcsr [ebx]
    .endm
    .code32
native_cases32:
    narrow_cases
native_cases32_end:
    .code16
native_cases16:
    narrow_cases
native_cases16_end:
    .code64
native_cases3264:
    narrow_cases
native_cases3264_end:
    .section .note.GNU-stack, "", @progbits
