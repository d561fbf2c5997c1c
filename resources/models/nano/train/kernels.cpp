// SPDX-License-Identifier: Apache-2.0
// CPU kernels for training the nano model: the gated delta rule recurrence, and the
// short causal convolution followed by silu. Plain C interface, loaded by model.py with ctypes.
// Build: g++ -O3 -march=native -ffast-math -shared -fPIC kernels.cpp -o kernels.so
#include <cmath>
#include <cstring>
#include <vector>

static constexpr int D = 32;      // key and value head size
static constexpr int CHUNK = 32;  // tokens between stored states

// Layout: q, k [B,T,Hk,D]; v, o [B,T,Hv,D]; g, beta [B,T,Hv]; all contiguous fp32.
// q and k are already normalised; value head h uses key head h / (Hv / Hk).
// ckpt [B,Hv,ceil(T/CHUNK),D,D] receives the state at the start of every chunk.
extern "C" void delta_fwd(int B, int T, int Hk, int Hv, const float* q, const float* k, const float* v, const float* g,
                          const float* beta, float* o, float* ckpt) {
  const int nc = (T + CHUNK - 1) / CHUNK, r = Hv / Hk;
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < Hv; ++h) {
      alignas(64) float S[D][D];
      std::memset(S, 0, sizeof S);
      for (int t = 0; t < T; ++t) {
        if (t % CHUNK == 0) std::memcpy(ckpt + (((size_t)b * Hv + h) * nc + t / CHUNK) * D * D, S, sizeof S);
        const float* qt = q + (((size_t)b * T + t) * Hk + h / r) * D;
        const float* kt = k + (((size_t)b * T + t) * Hk + h / r) * D;
        const size_t hv = ((size_t)b * T + t) * Hv + h;
        const float* vt = v + hv * D;
        const float al = std::exp(g[hv]), be = beta[hv];
        alignas(64) float m[D] = {}, d[D], out[D] = {};
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) {
            S[i][j] *= al;
            m[j] += S[i][j] * kt[i];
          }
        for (int j = 0; j < D; ++j) d[j] = be * (vt[j] - m[j]);
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) {
            S[i][j] += kt[i] * d[j];
            out[j] += S[i][j] * qt[i];
          }
        std::memcpy(o + hv * D, out, sizeof out);
      }
    }
}

// Gradients; dq and dk must be zeroed by the caller (value heads of one key head add up).
extern "C" void delta_bwd(int B, int T, int Hk, int Hv, const float* q, const float* k, const float* v, const float* g,
                          const float* beta, const float* ckpt, const float* dout, float* dq, float* dk, float* dv,
                          float* dg, float* dbeta) {
  const int nc = (T + CHUNK - 1) / CHUNK, r = Hv / Hk;
  std::vector<float> hist((size_t)CHUNK * D * D + 64);
  float* base = (float*)(((size_t)hist.data() + 63) / 64 * 64);
  for (int b = 0; b < B; ++b)
    for (int h = 0; h < Hv; ++h) {
      alignas(64) float dS[D][D];
      std::memset(dS, 0, sizeof dS);
      for (int c = nc - 1; c >= 0; --c) {
        const int t0 = c * CHUNK, t1 = t0 + CHUNK < T ? t0 + CHUNK : T;
        alignas(64) float S[D][D];
        alignas(64) float dd_[CHUNK][D], m_[CHUNK][D];
        std::memcpy(S, ckpt + (((size_t)b * Hv + h) * nc + c) * D * D, sizeof S);
        for (int t = t0; t < t1; ++t) {  // recompute the states of this chunk
          const float* kt = k + (((size_t)b * T + t) * Hk + h / r) * D;
          const size_t hv = ((size_t)b * T + t) * Hv + h;
          const float* vt = v + hv * D;
          const float al = std::exp(g[hv]), be = beta[hv];
          alignas(64) float m[D] = {};
          for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) {
              S[i][j] *= al;
              m[j] += S[i][j] * kt[i];
            }
          std::memcpy(base + (size_t)(t - t0) * D * D, S, sizeof S);
          float* d = dd_[t - t0];
          for (int j = 0; j < D; ++j) {
            m_[t - t0][j] = m[j];
            d[j] = be * (vt[j] - m[j]);
          }
          for (int i = 0; i < D; ++i)
            for (int j = 0; j < D; ++j) S[i][j] += kt[i] * d[j];
        }
        for (int t = t1 - 1; t >= t0; --t) {
          const size_t ko = (((size_t)b * T + t) * Hk + h / r) * D;
          const float *qt = q + ko, *kt = k + ko;
          const size_t hv = ((size_t)b * T + t) * Hv + h;
          const float *vt = v + hv * D, *dot = dout + hv * D;
          const float al = std::exp(g[hv]), be = beta[hv];
          const float(*Sp)[D] = (const float(*)[D])(base + (size_t)(t - t0) * D * D);
          const float* d = dd_[t - t0];
          float ddo = 0;
          for (int j = 0; j < D; ++j) ddo += d[j] * dot[j];
          alignas(64) float dd[D] = {};
          alignas(64) float tq[D], tk[D];
          for (int i = 0; i < D; ++i) {
            float sq = 0, sk = 0;
            for (int j = 0; j < D; ++j) {
              dS[i][j] += qt[i] * dot[j];
              sq += Sp[i][j] * dot[j];
              sk += dS[i][j] * d[j];
              dd[j] += dS[i][j] * kt[i];
            }
            tq[i] = sq + kt[i] * ddo;
            tk[i] = sk;
          }
          float db = 0;
          alignas(64) float dm[D];
          for (int j = 0; j < D; ++j) {
            db += dd[j] * (vt[j] - m_[t - t0][j]);
            dm[j] = -be * dd[j];
            dv[hv * D + j] = be * dd[j];
          }
          float da = 0;
          for (int i = 0; i < D; ++i) {
            float sk = 0;
            for (int j = 0; j < D; ++j) {
              const float x = dS[i][j] + kt[i] * dm[j];
              sk += Sp[i][j] * dm[j];
              da += x * Sp[i][j];
              dS[i][j] = al * x;
            }
            tk[i] += sk;
          }
          dbeta[hv] = db;
          dg[hv] = da;
          for (int i = 0; i < D; ++i) {
            dq[ko + i] += tq[i];
            dk[ko + i] += tk[i];
          }
        }
      }
    }
}

// y[t,c] = silu(sum_j w[c,j] u[t-3+j,c]); u, y [B,T,C]; wt [4,C] (transposed kernel); pre keeps the sum.
extern "C" void conv_fwd(int B, int T, int C, int ldu, const float* u, const float* wt, float* pre, float* y) {
  for (int b = 0; b < B; ++b)
    for (int t = 0; t < T; ++t) {
      float* p = pre + ((size_t)b * T + t) * C;
      float* yt = y + ((size_t)b * T + t) * C;
      const float* x0 = u + ((size_t)b * T + t) * ldu;
      if (t >= 3) {
        const float *x1 = x0 - ldu, *x2 = x1 - ldu, *x3 = x2 - ldu;
        for (int c = 0; c < C; ++c)
          p[c] = wt[3 * C + c] * x0[c] + wt[2 * C + c] * x1[c] + wt[C + c] * x2[c] + wt[c] * x3[c];
      } else {
        for (int c = 0; c < C; ++c) p[c] = wt[3 * C + c] * x0[c];
        for (int j = 1; j <= t; ++j)
          for (int c = 0; c < C; ++c) p[c] += wt[(3 - j) * C + c] * x0[c - (long)j * ldu];
      }
      for (int c = 0; c < C; ++c) yt[c] = p[c] / (1.f + std::exp(-p[c]));
    }
}

// du [B,T,ldu] first C columns written; dwt [4,C] zeroed by the caller; dy is overwritten by d(pre).
extern "C" void conv_bwd(int B, int T, int C, int ldu, const float* u, const float* wt, const float* pre, float* dy,
                         float* du, float* dwt) {
  for (int b = 0; b < B; ++b)
    for (int t = T - 1; t >= 0; --t) {
      float* p = dy + ((size_t)b * T + t) * C;
      const float* s = pre + ((size_t)b * T + t) * C;
      for (int c = 0; c < C; ++c) {
        const float sg = 1.f / (1.f + std::exp(-s[c]));
        p[c] *= sg * (1.f + s[c] * (1.f - sg));
      }
      float* dx = du + ((size_t)b * T + t) * ldu;
      for (int c = 0; c < C; ++c) dx[c] = wt[3 * C + c] * p[c];
      for (int j = 1; j < 4 && t + j < T; ++j) {
        const float* pj = p + (size_t)j * C;
        for (int c = 0; c < C; ++c) dx[c] += wt[(3 - j) * C + c] * pj[c];
      }
      for (int j = 0; j < 4 && t - j >= 0; ++j) {
        const float* x = u + ((size_t)b * T + t - j) * ldu;
        for (int c = 0; c < C; ++c) dwt[(3 - j) * C + c] += p[c] * x[c];
      }
    }
}

static inline float up(unsigned short x) {
  unsigned u = (unsigned)x << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
static inline unsigned short down(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// h[n,i] = silu(a[n,i]) * a[n,I+i], bf16 in and out; a [N,2I].
extern "C" void swiglu_fwd(long N, int I, const unsigned short* a, unsigned short* h) {
  for (long n = 0; n < N; ++n) {
    const unsigned short *x = a + n * 2 * I, *y = x + I;
    unsigned short* o = h + n * I;
    for (int i = 0; i < I; ++i) {
      const float f = up(x[i]);
      o[i] = down(f / (1.f + std::exp(-f)) * up(y[i]));
    }
  }
}
extern "C" void swiglu_bwd(long N, int I, const unsigned short* a, const unsigned short* dh, unsigned short* da) {
  for (long n = 0; n < N; ++n) {
    const unsigned short *x = a + n * 2 * I, *y = x + I, *g = dh + n * I;
    unsigned short *p = da + n * 2 * I, *q = p + I;
    for (int i = 0; i < I; ++i) {
      const float f = up(x[i]), s = 1.f / (1.f + std::exp(-f)), d = up(g[i]);
      p[i] = down(d * up(y[i]) * s * (1.f + f * (1.f - s)));
      q[i] = down(d * f * s);
    }
  }
}

// y = x * rsqrt(mean(x^2) + eps) * w, rows of n values; xn keeps x * rsqrt(...).
extern "C" void rms_fwd(long R, int n, float eps, const float* x, const float* w, float* y, float* inv) {
  for (long r = 0; r < R; ++r) {
    const float* a = x + r * n;
    float s = 0;
    for (int i = 0; i < n; ++i) s += a[i] * a[i];
    const float k = 1.f / std::sqrt(s / n + eps);
    inv[r] = k;
    for (int i = 0; i < n; ++i) y[r * n + i] = a[i] * k * w[i];
  }
}
extern "C" void rms_bwd(long R, int n, const float* x, const float* w, const float* inv, const float* dy, float* dx,
                        float* dw) {
  for (long r = 0; r < R; ++r) {
    const float *a = x + r * n, *g = dy + r * n;
    const float k = inv[r];
    float s = 0;
    for (int i = 0; i < n; ++i) {
      s += g[i] * w[i] * a[i];
      dw[i] += g[i] * a[i] * k;
    }
    s *= k * k * k / n;
    for (int i = 0; i < n; ++i) dx[r * n + i] = g[i] * w[i] * k - a[i] * s;
  }
}

// Experts: pos[n,j] is the row of slot j of token n in the expert-sorted, padded buffers (bf16).
extern "C" void gather_fwd(long N, int k, int H, const unsigned short* x, const long* pos, unsigned short* xs) {
  for (long n = 0; n < N; ++n)
    for (int j = 0; j < k; ++j) std::memcpy(xs + pos[n * k + j] * H, x + n * H, H * sizeof(short));
}
extern "C" void gather_bwd(long N, int k, int H, const unsigned short* dxs, const long* pos, unsigned short* dx) {
  std::vector<float> a(H);
  for (long n = 0; n < N; ++n) {
    std::memset(a.data(), 0, H * sizeof(float));
    for (int j = 0; j < k; ++j) {
      const unsigned short* r = dxs + pos[n * k + j] * H;
      for (int i = 0; i < H; ++i) a[i] += up(r[i]);
    }
    for (int i = 0; i < H; ++i) dx[n * H + i] = down(a[i]);
  }
}
// out[n] = sum_j w[n,j] y[pos[n,j]]
extern "C" void combine_fwd(long N, int k, int H, const unsigned short* y, const long* pos, const float* w,
                            float* out) {
  for (long n = 0; n < N; ++n) {
    float* o = out + n * H;
    for (int j = 0; j < k; ++j) {
      const unsigned short* r = y + pos[n * k + j] * H;
      const float f = w[n * k + j];
      if (j == 0)
        for (int i = 0; i < H; ++i) o[i] = f * up(r[i]);
      else
        for (int i = 0; i < H; ++i) o[i] += f * up(r[i]);
    }
  }
}
extern "C" void combine_bwd(long N, int k, int H, const unsigned short* y, const long* pos, const float* w,
                            const float* dout, unsigned short* dy, float* dw) {
  for (long n = 0; n < N; ++n)
    for (int j = 0; j < k; ++j) {
      const unsigned short* r = y + pos[n * k + j] * H;
      unsigned short* d = dy + pos[n * k + j] * H;
      const float *g = dout + n * H, f = w[n * k + j];
      float s = 0;
      for (int i = 0; i < H; ++i) {
        s += g[i] * up(r[i]);
        d[i] = down(f * g[i]);
      }
      dw[n * k + j] = s;
    }
}
