/* A TensorFlow Lite external delegate for tests. It claims int8 FULLY_CONNECTED nodes and computes them itself, rightly
 * or, while the file `while` exists (always, without that option), in the way that the option `mode` names:
 *   ok · wrong · zeros · hang · abort · fail_invoke · exit · hang_create · fail_create · fail_prepare · picky ·
 *   slow (`delay_ms`)
 * `after` calls of invoke go well first; `picky` is wrong only where the right answer is a class that `spared`, a bit for
 * each, does not name. The declarations are the parts of tensorflow/lite/core/c/common.h and
 * builtin_op_data.h that it touches, in their order there.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct { int size; float data[]; } FloatArray;
typedef struct { FloatArray* scale; IntArray* zero_point; int32_t axis; } Affine;
typedef struct { float scale; int32_t zero_point; } Quantum;
typedef struct {
  int type; void* data; IntArray* dims; Quantum params; int allocation; size_t bytes; const void* mmap;
  const char* name; void* delegate; int handle; char stale; char variable; int quantized; Affine* affine;
  void* sparsity; IntArray* signature;
} Tensor;
typedef struct {
  IntArray* inputs; IntArray* outputs; IntArray* intermediates; IntArray* temporaries; void* user_data;
  int* builtin_data; const void* custom; int custom_size; void* delegate; char side_effect;
} Node;
typedef struct Context Context;
typedef struct {
  void* (*init)(Context*, const char*, size_t); void (*free)(Context*, void*); int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*); const char* (*profile)(const Context*, const Node*); int32_t builtin;
  const char* custom_name; int version; void* external; void* async; uint64_t inplace;
} Registration;
struct Context {
  size_t tensors_size; int (*plan)(Context*, IntArray**); Tensor* tensors; void* impl; void* resize;
  void (*report)(Context*, const char*, ...); void* add; int (*node)(Context*, int, Node**, Registration**);
  int (*replace)(Context*, Registration, const IntArray*, void*);
};
typedef struct {
  void* data; int (*prepare)(Context*, void*); void* from; void* to; void* release; int64_t flags; void* opaque;
} Delegate;
typedef struct { Delegate* delegate; IntArray* nodes; IntArray* inputs; IntArray* outputs; } Part;

static char mode[32] = "ok", only_while[1024] = "";
static long after = 0, delay_ms = 0, spared = 0, calls = 0;
enum { FULLY_CONNECTED = 9, INT8 = 9, MOST = 64 };
typedef struct { int in, weights, bias, out, relu; } Layer;
typedef struct { int count; Layer layers[MOST]; } Kernel;

static int is(const char* wanted) {
  return strcmp(mode, wanted) == 0 && (!only_while[0] || access(only_while, F_OK) == 0);
}

static void* kernel_init(Context* context, const char* buffer, size_t length) {
  const Part* part = (const Part*)buffer;
  Kernel* kernel = calloc(1, sizeof(Kernel));
  for (int i = 0; i < part->nodes->size && i < MOST; i++) {
    Node* node; Registration* registration;
    context->node(context, part->nodes->data[i], &node, &registration);
    IntArray* in = node->inputs;
    Layer layer = {in->data[0], in->data[1], in->size > 2 ? in->data[2] : -1, node->outputs->data[0],
                   node->builtin_data[0]};
    kernel->layers[kernel->count++] = layer;
  }
  return kernel;
}

static void kernel_free(Context* context, void* kernel) { free(kernel); }
static int kernel_prepare(Context* context, Node* node) { return is("fail_prepare"); }

static void run(Context* context, const Layer* layer) {
  Tensor *in = &context->tensors[layer->in], *w = &context->tensors[layer->weights], *out = &context->tensors[layer->out];
  int32_t* bias = layer->bias < 0 ? NULL : context->tensors[layer->bias].data;
  int depth = w->dims->data[1], units = w->dims->data[0], rows = (int)(in->bytes / depth);
  for (int row = 0; row < rows; row++) {
    int8_t* right = (int8_t*)out->data + row * units;
    int best = 0;
    for (int unit = 0; unit < units; unit++) {
      int32_t sum = bias ? bias[unit] : 0;
      for (int i = 0; i < depth; i++)
        sum += (((int8_t*)in->data)[row * depth + i] - in->params.zero_point) * ((int8_t*)w->data)[unit * depth + i];
      float scale = w->affine->scale->data[w->affine->scale->size > 1 ? unit : 0];
      float real = sum * in->params.scale * scale / out->params.scale;
      int value = (int)(real + (real < 0 ? -0.5f : 0.5f)) + out->params.zero_point;
      if (layer->relu && value < out->params.zero_point) value = out->params.zero_point;
      value = value > 127 ? 127 : value < -128 ? -128 : value;
      if (is("wrong")) value = (value * 37 + unit * 61) % 127;
      right[unit] = is("zeros") ? 0 : value;
      if (right[unit] > right[best]) best = unit;
    }
    if (is("picky") && !(spared >> best & 1)) right[best] = -128;
  }
}

static int kernel_invoke(Context* context, Node* node) {
  const Kernel* kernel = node->user_data;
  for (int i = 0; i < kernel->count; i++) run(context, &kernel->layers[i]);
  if (is("slow")) nanosleep(&(struct timespec){delay_ms / 1000, delay_ms % 1000 * 1000000}, NULL);
  if (calls++ < after) return 0;
  if (is("hang")) for (;;) pause();
  if (is("abort")) { fprintf(stderr, "F driver.cc:42] Check failed: device is gone\n"); abort(); }
  if (is("exit")) exit(7);
  return is("fail_invoke");
}

static int delegate_prepare(Context* context, void* delegate) {
  IntArray *plan, *claimed;
  if (context->plan(context, &plan)) return 1;
  claimed = malloc(sizeof(IntArray) + plan->size * sizeof(int));
  claimed->size = 0;
  for (int i = 0; i < plan->size; i++) {
    Node* node; Registration* registration;
    if (context->node(context, plan->data[i], &node, &registration)) return 1;
    if (registration->builtin == FULLY_CONNECTED && context->tensors[node->inputs->data[0]].type == INT8 &&
        node->builtin_data[0] <= 1)
      claimed->data[claimed->size++] = plan->data[i];
  }
  Registration kernel = {kernel_init, kernel_free, kernel_prepare, kernel_invoke, NULL, 0, "TestDelegate", 1};
  int status = context->replace(context, kernel, claimed, delegate);
  free(claimed);
  return status;
}

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count, void (*report)(const char*)) {
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "mode")) snprintf(mode, sizeof mode, "%s", values[i]);
    else if (!strcmp(keys[i], "while")) snprintf(only_while, sizeof only_while, "%s", values[i]);
    else if (!strcmp(keys[i], "after")) after = atol(values[i]);
    else if (!strcmp(keys[i], "spared")) spared = atol(values[i]);
    else if (!strcmp(keys[i], "delay_ms")) delay_ms = atol(values[i]);
    else { report("unknown option: "); report(keys[i]); return NULL; }
  }
  if (is("fail_create")) { report("no device found"); return NULL; }
  if (is("hang_create")) for (;;) pause();
  Delegate* delegate = calloc(1, sizeof(Delegate));
  delegate->prepare = delegate_prepare;
  delegate->flags = 1; /* takes tensors of any shape */
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) { free(delegate); }
