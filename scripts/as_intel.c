/* Loaded before torch, these let MKL take its code path for Intel processors on any x86-64 machine,
   whose order of sums is another than the one it takes elsewhere: `make test-intel`. */
int mkl_serv_intel_cpu(void) { return 1; }
int mkl_serv_intel_cpu_true(void) { return 1; }
